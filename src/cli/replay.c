/* pgherald replay: dead letters to an output, once more. */
#include "base/log.h"
#include "cli/cli.h"
#include "core/output.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct replay {
	const struct settings *settings;
	struct sink *sink;
	int progress;
	uint64_t given;
};

/* Waits for the sink to have come further. */
static int wait_progress(struct replay *r, struct err *err)
{
	struct pollfd pfd = { r->progress, POLLIN, 0 };
	struct err why;
	uint64_t n;

	poll(&pfd, 1, 1000);
	if (read(r->progress, &n, sizeof(n)) < 0) {
		/* nothing was there */
	}
	if (sink_condition(r->sink, &why) != SINK_FAILED)
		return 0;
	*err = why;
	return -1;
}

static int start(struct replay *r, struct err *err)
{
	const struct output_settings *os = &r->settings->outputs[0];
	struct sink_config config = { .url = os->to,
				      .format = &format_dead_letter,
				      .origin = "replay",
				      .max_in_flight = (uint32_t)os->max_in_flight,
				      .refused = output_refusal(os),
				      .is_dead_letter = true };

	if (r->settings->noutputs > 1)
		return err_set(err, ERR_USAGE, "replay sends to one output");
	config.progress = r->progress = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->sink = sink_start(&config, err);
	return r->sink ? 0 : -1;
}

static struct str text(const json_t *letter, const char *name)
{
	const json_t *v = json_object_get(letter, name);

	return json_is_string(v) ? (struct str){ json_string_value(v), json_string_length(v) }
				 : (struct str){ 0 };
}

/* Appends a member that is text or, under the other name, base64. False when it is neither. */
static bool put_bytes(struct strbuf *out, const json_t *letter, const char *name,
		      const char *base64_name)
{
	struct str plain = text(letter, name), coded = text(letter, base64_name);
	int n;

	if (plain.p)
		strbuf_str(out, plain);
	if (plain.p || !coded.p)
		return plain.p != NULL;
	n = EVP_DecodeBlock((unsigned char *)strbuf_room(out, coded.n),
			    (const unsigned char *)coded.p, (int)coded.n);
	while (n > 0 && coded.n && coded.p[coded.n - 1] == '=') { /* padding counts as bytes there */
		coded.n--;
		n--;
	}
	out->n += n > 0 ? (size_t)n : 0;
	return n >= 0;
}

/* Fills the batch with one letter. */
static int put_letter(struct replay *r, struct batch *b, const json_t *letter, struct err *err)
{
	struct message *m = batch_next(b);
	struct str id = text(letter, "id"), address = text(letter, "address");

	*m = (struct message){ 0 };
	if (id.n != POSITION_LEN || !position_parse(id, &m->position))
		return err_set(err, ERR_CONFIG, "it has no \"id\" of an event");
	if (r->settings->outputs[0].address)
		address = str_c(r->settings->outputs[0].address);
	strbuf_str(&b->meta, address);
	m->address_n = (uint32_t)address.n;
	put_bytes(&b->meta, letter, "key", "key_base64");
	m->key_n = (uint32_t)(b->meta.n - address.n);
	strbuf_str(&b->meta, text(letter, "table"));
	m->table_n = (uint32_t)text(letter, "table").n;
	if (!put_bytes(&b->body, letter, "body", "body_base64"))
		return err_set(err, ERR_CONFIG, "it has no \"body\"");
	m->n = b->body.n;
	strbuf_ch(&b->body, '\n');
	b->n = 1;
	b->first = ++r->given;
	return 0;
}

static int replay_line(struct replay *r, const char *line, size_t n, struct err *err)
{
	json_error_t why;
	json_t *letter = json_loadb(line, n, JSON_ALLOW_NUL, &why);
	struct batch *b = NULL;
	int failed = 0;

	if (!letter)
		return err_set(err, ERR_CONFIG, "it is no dead letter: %s", why.text);
	while (!failed && !(b = sink_batch(r->sink)))
		failed = wait_progress(r, err);
	if (!failed)
		failed = put_letter(r, b, letter, err);
	if (failed)
		batch_free(b);
	else
		sink_send(r->sink, b);
	json_decref(letter);
	return failed;
}

static int replay_file(struct replay *r, FILE *f, struct err *err)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int failed = 0;

	while (!failed && (n = getline(&line, &cap, f)) > 0) {
		failed = replay_line(r, line, (size_t)n, err);
		if (failed)
			err_add(err, "line %llu", (unsigned long long)r->given + 1);
	}
	free(line);
	if (!failed && ferror(f))
		failed = err_set(err, ERR_FAIL, "cannot read: %s", strerror(errno));
	sink_drain(r->sink);
	while (sink_taken(r->sink) < r->given)
		if (wait_progress(r, err))
			return -1;
	return failed;
}

int replay_run(const struct command *command, struct settings *settings)
{
	struct replay r = { .settings = settings };
	const char *path = settings->letters;
	FILE *f = NULL;
	struct err err = { 0 };
	int failed;

	signal(SIGPIPE, SIG_IGN);
	if (!path)
		failed = err_set(&err, ERR_USAGE,
				 "say which file of dead letters, or - for standard input");
	else if (!(f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re")))
		failed = err_set(&err, ERR_CONFIG, "cannot open %s: %s", path, strerror(errno));
	else
		failed = start(&r, &err);
	if (!failed)
		failed = replay_file(&r, f, &err);
	if (r.sink) {
		log_info("%llu events sent again", (unsigned long long)sink_taken(r.sink));
		sink_end(r.sink);
		sink_join(r.sink, 5000);
	}
	if (f && f != stdin)
		fclose(f);
	if (failed)
		log_error("%s", err.msg);
	cli_free(settings);
	return failed ? err_exit_code(err.kind) : 0;
}
