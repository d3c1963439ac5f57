/*
 * Compression of whole messages: Brotli, gzip and zstd. The names of an encoding are those of
 * HTTP's content-encoding: br, gzip, zstd.
 */
#ifndef PGHERALD_COMPRESS_H
#define PGHERALD_COMPRESS_H

#include "base/err.h"
#include "base/strbuf.h"

struct compressor;

/* "brotli", "gzip" or "zstd"; NULL for anything else, such as "none". */
struct compressor *compressor_new(const char *name);

void compressor_free(struct compressor *c); /* NULL is nothing */

/* What the receiver calls it: "br", "gzip" or "zstd". */
const char *compressor_encoding(const struct compressor *c);

/* Appends the message, compressed. */
void compress_message(struct compressor *c, struct str message, struct strbuf *out);

/* Appends what the message was before. FAIL for what is no such message or would have
 * more than `most` bytes. */
int decompress_message(struct str encoding, struct str message, size_t most, struct strbuf *out,
		       struct err *err) MUST_CHECK;

#endif
