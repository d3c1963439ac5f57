/* pgherald consume: shows the messages of a destination, until the limit or a signal. */
#include "base/base64.h"
#include "base/compress.h"
#include "base/json.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "sink/reader.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LOOK_MS 500
#define MAX_BODY (1u << 30)

static volatile sig_atomic_t reading, stopped;

/* Until there is a connection nothing has been taken: it need not be waited for. */
static void on_stop(int signal)
{
	if (!reading)
		_exit(0);
	stopped = 1;
}

static bool looks_plain(struct str body)
{
	return body.n == 0 || body.p[0] == '{' || body.p[0] == '[' || utf8_valid(body);
}

/* What is said to be compressed is unpacked. Where nothing is said, what is no text may be Brotli,
 * as the messages of PGEvents are, or be known by its first bytes. */
static struct str unpack(const struct reader_message *m, struct strbuf *plain)
{
	static const char *const encodings[] = { "gzip", "zstd", "br" };
	struct err err;

	plain->n = 0;
	if (m->encoding.n && !decompress_message(m->encoding, m->body, MAX_BODY, plain, &err))
		return strbuf_view(plain);
	for (size_t i = 0; i < 3 && !m->encoding.n && !looks_plain(m->body); i++)
		if (!decompress_message(str_c(encodings[i]), m->body, MAX_BODY, plain, &err))
			return strbuf_view(plain);
	return m->body;
}

static void put_member(struct strbuf *out, const char *name, struct str value)
{
	strbuf_printf(out, "\"%s\":", name);
	if (value.n)
		json_string_checked(out, value);
	else
		strbuf_lit(out, "null");
	strbuf_ch(out, ',');
}

static void put_json(struct strbuf *out, const struct reader_message *m, struct str body)
{
	strbuf_ch(out, '{');
	put_member(out, "address", m->address);
	put_member(out, "id", m->id);
	if (json_valid(body)) {
		strbuf_lit(out, "\"event\":");
		strbuf_str(out, body);
	} else if (utf8_valid(body)) {
		strbuf_lit(out, "\"text\":");
		json_string(out, body);
	} else {
		strbuf_lit(out, "\"body_base64\":\"");
		base64_encode(out, body);
		strbuf_ch(out, '"');
	}
	strbuf_lit(out, "}\n");
}

/* ADDRESS, ID and event with tabs between them. */
static void put_line(struct strbuf *out, const struct reader_message *m, struct str body)
{
	strbuf_str(out, m->address);
	strbuf_ch(out, '\t');
	strbuf_str(out, m->id.n ? m->id : STR("-"));
	strbuf_ch(out, '\t');
	if (utf8_valid(body))
		strbuf_str(out, body);
	else
		base64_encode(out, body);
	strbuf_ch(out, '\n');
}

static int show(const struct settings *s, const struct reader_message *m, struct err *err)
{
	struct strbuf plain = { 0 }, out = { 0 };
	struct str body = unpack(m, &plain);
	bool failed;

	(s->json ? put_json : put_line)(&out, m, body);
	failed = fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout);
	strbuf_release(&out);
	strbuf_release(&plain);
	return failed ? err_set(err, ERR_FAIL, "standard output takes nothing more") : 0;
}

static int consume(const struct settings *s, struct reader *r, struct err *err)
{
	struct reader_message m;
	int found = 0;

	for (int64_t n = 0; !stopped && (s->limit == 0 || n < s->limit); n += found) {
		found = r->driver->next(r, LOOK_MS, &m, err);
		if (found < 0)
			return -1;
		if (found && (show(s, &m, err) || (r->driver->done && r->driver->done(r, err))))
			return -1;
	}
	return 0;
}

static void handle_signals(void)
{
	struct sigaction stop = { .sa_handler = on_stop };

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int consume_run(const struct command *command, struct settings *s)
{
	struct reader r = { .keys = s->keys, .limit = s->limit };
	struct strbuf label = { 0 };
	struct err err = { 0 };
	int failed;

	if (!s->url) {
		fputs("pgherald: consume: the URL is missing (see pgherald consume --help)\n",
		      stderr);
		cli_free(s);
		return err_exit_code(ERR_USAGE);
	}
	handle_signals();
	failed = reader_open(&r, s->url, &err);
	reading = 1;
	failed = failed || consume(s, &r, &err);
	if (failed) {
		url_mask(&label, str_c(s->url));
		fprintf(stderr, "pgherald: %s: %s\n", strbuf_cstr(&label), err.msg);
		strbuf_release(&label);
	}
	reader_close(&r);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
