#include "base/compress.h"

#include "base/mem.h"

#include <brotli/decode.h>
#include <brotli/encode.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* Fast enough for a stream; higher ones win little on messages of a few hundred bytes. */
#define BROTLI_QUALITY 5
#define ZSTD_LEVEL 3

#define GZIP_WINDOW (15 + 16) /* with gzip's header and checksum */
#define CHUNK 65536

struct codec {
	const char *name;
	const char *encoding;
	void (*compress)(struct compressor *c, struct str message, struct strbuf *out);
	/* Returns false for what is malformed or too long. */
	bool (*decompress)(struct str message, size_t most, struct strbuf *out);
};

struct compressor {
	const struct codec *codec;
	z_stream gzip;
	ZSTD_CCtx *zstd;
};

static const unsigned char *bytes_of(struct str s)
{
	return (const unsigned char *)s.p;
}

/* ---- Brotli ---- */

static void compress_brotli(struct compressor *c, struct str message, struct strbuf *out)
{
	size_t n = BrotliEncoderMaxCompressedSize(message.n);
	uint8_t *to = (uint8_t *)strbuf_room(out, n);

	if (!BrotliEncoderCompress(BROTLI_QUALITY, BROTLI_DEFAULT_WINDOW, BROTLI_MODE_TEXT,
				   message.n, bytes_of(message), &n, to))
		mem_die();
	out->n += n;
}

static bool decompress_brotli(struct str message, size_t most, struct strbuf *out)
{
	BrotliDecoderState *d = BrotliDecoderCreateInstance(NULL, NULL, NULL);
	BrotliDecoderResult r = BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
	const uint8_t *in = bytes_of(message);
	size_t left = message.n, begin = out->n;

	if (!d)
		mem_die();
	while (r == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT && out->n - begin <= most) {
		uint8_t *to = (uint8_t *)strbuf_room(out, CHUNK);
		size_t room = CHUNK;

		r = BrotliDecoderDecompressStream(d, &left, &in, &room, &to, NULL);
		out->n += CHUNK - room;
	}
	BrotliDecoderDestroyInstance(d);
	return r == BROTLI_DECODER_RESULT_SUCCESS && left == 0 && out->n - begin <= most;
}

/* ---- gzip ---- */

static void compress_gzip(struct compressor *c, struct str message, struct strbuf *out)
{
	z_stream *z = &c->gzip;
	size_t n;

	if (!z->state && deflateInit2(z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, 8,
				      Z_DEFAULT_STRATEGY) != Z_OK)
		mem_die();
	n = deflateBound(z, message.n);
	z->next_out = (unsigned char *)strbuf_room(out, n);
	z->avail_out = (unsigned)n;
	z->next_in = (unsigned char *)(uintptr_t)message.p;
	z->avail_in = (unsigned)message.n;
	if (deflate(z, Z_FINISH) != Z_STREAM_END)
		mem_die();
	out->n += n - z->avail_out;
	deflateReset(z);
}

static bool decompress_gzip(struct str message, size_t most, struct strbuf *out)
{
	z_stream z = { .next_in = (unsigned char *)(uintptr_t)message.p,
		       .avail_in = (unsigned)message.n };
	size_t begin = out->n;
	int r = Z_OK;

	if (inflateInit2(&z, GZIP_WINDOW) != Z_OK)
		mem_die();
	while (r == Z_OK && out->n - begin <= most) {
		z.next_out = (unsigned char *)strbuf_room(out, CHUNK);
		z.avail_out = CHUNK;
		r = inflate(&z, Z_NO_FLUSH);
		out->n += CHUNK - z.avail_out;
	}
	inflateEnd(&z);
	return r == Z_STREAM_END && z.avail_in == 0 && out->n - begin <= most;
}

/* ---- zstd ---- */

static void compress_zstd(struct compressor *c, struct str message, struct strbuf *out)
{
	size_t n = ZSTD_compressBound(message.n);

	if (!c->zstd)
		c->zstd = ZSTD_createCCtx();
	if (!c->zstd)
		mem_die();
	n = ZSTD_compressCCtx(c->zstd, strbuf_room(out, n), n, message.p, message.n, ZSTD_LEVEL);
	if (ZSTD_isError(n))
		mem_die();
	out->n += n;
}

static bool decompress_zstd(struct str message, size_t most, struct strbuf *out)
{
	ZSTD_DStream *d = ZSTD_createDStream();
	ZSTD_inBuffer in = { message.p, message.n, 0 };
	size_t begin = out->n, r = 1;

	if (!d)
		mem_die();
	while (r != 0 && !ZSTD_isError(r) && out->n - begin <= most) {
		ZSTD_outBuffer to = { strbuf_room(out, CHUNK), CHUNK, 0 };
		size_t before = in.pos;

		r = ZSTD_decompressStream(d, &to, &in);
		out->n += to.pos;
		if (to.pos == 0 && in.pos == before)
			break;
	}
	ZSTD_freeDStream(d);
	return r == 0 && in.pos == in.size && out->n - begin <= most;
}

static const struct codec codecs[] = {
	{ "brotli", "br", compress_brotli, decompress_brotli },
	{ "gzip", "gzip", compress_gzip, decompress_gzip },
	{ "zstd", "zstd", compress_zstd, decompress_zstd },
};

#define CODECS (sizeof(codecs) / sizeof(codecs[0]))

struct compressor *compressor_new(const char *name)
{
	struct compressor *c;

	for (size_t i = 0; name && i < CODECS; i++) {
		if (strcmp(codecs[i].name, name) != 0)
			continue;
		c = mem_alloc(sizeof(*c));
		c->codec = &codecs[i];
		return c;
	}
	return NULL;
}

void compressor_free(struct compressor *c)
{
	if (!c)
		return;
	deflateEnd(&c->gzip);
	ZSTD_freeCCtx(c->zstd);
	free(c);
}

const char *compressor_encoding(const struct compressor *c)
{
	return c->codec->encoding;
}

void compress_message(struct compressor *c, struct str message, struct strbuf *out)
{
	c->codec->compress(c, message, out);
}

int decompress_message(struct str encoding, struct str message, size_t most, struct strbuf *out,
		       struct err *err)
{
	size_t begin = out->n;

	for (size_t i = 0; i < CODECS; i++) {
		if (!str_eq(encoding, str_c(codecs[i].encoding)))
			continue;
		if (codecs[i].decompress(message, most, out))
			return 0;
		out->n = begin;
		return err_set(err, ERR_FAIL, "this is not %s, or longer than %zu bytes",
			       codecs[i].name, most);
	}
	return err_set(err, ERR_FAIL, "the encoding \"%.*s\" is not known", STR_ARG(encoding));
}
