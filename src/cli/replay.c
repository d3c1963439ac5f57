/* pgherald replay: dead letters to an output, once more. */
#include "base/log.h"
#include "base/time.h"
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
	struct sink *sink; /* NULL before the first letter, which says how all are compressed */
	char encoding[16];
	enum sink_condition condition;
	int progress;
	uint64_t given;
};

static void log_condition(struct replay *r, enum sink_condition now, const struct err *why)
{
	if (now == SINK_RETRYING && r->condition != SINK_RETRYING)
		log_warn("output %s is down, trying again: %s", r->sink->label, why->msg);
	else if (now == SINK_OPEN && r->condition == SINK_RETRYING)
		log_info("output %s is back", r->sink->label);
	r->condition = now;
}

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
	log_condition(r, sink_condition(r->sink, &why), &why);
	if (r->condition != SINK_FAILED)
		return 0;
	*err = why;
	return -1;
}

/* What addresses of this template look like: "shop.*"; NULL where there are none. */
static const char *pattern(struct arena *arena, const char *template)
{
	struct strbuf b = { 0 };
	const char *copy;

	for (const char *p = template; p && *p; p++) {
		strbuf_ch(&b, *p == '{' ? '*' : *p);
		if (*p == '{')
			p += strcspn(p, "}") - (p[strcspn(p, "}")] == '\0');
	}
	copy = template ? arena_copy(arena, b.p, b.n) : NULL;
	strbuf_release(&b);
	return copy;
}

static int check(const struct settings *s, struct err *err)
{
	if (s->noutputs > 1)
		return err_set(err, ERR_USAGE, "replay sends to one output");
	if (output_refusal(&s->outputs[0]) == REFUSED_DEAD_LETTER)
		return err_set(
			err, ERR_CONFIG,
			"replay makes no dead letters again: its on_refused is stop or skip");
	return sink_check(s->outputs[0].to, err);
}

static int start(struct replay *r, struct err *err)
{
	const struct output_settings *os = &r->settings->outputs[0];
	struct sink_config config = { .url = os->to,
				      .format = &format_dead_letter,
				      .origin = "replay",
				      .content_encoding = *r->encoding ? r->encoding : NULL,
				      .max_in_flight = (uint32_t)os->max_in_flight,
				      .refused = output_refusal(os),
				      .is_dead_letter = true };
	struct arena arena = { 0 };
	const struct sink_driver *driver;
	struct url url;

	config.progress = r->progress = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	driver = driver_find(&url, &arena, os->to, err);
	if (driver && *r->encoding && !driver->compressed)
		err_set(err, ERR_CONFIG,
			"it is compressed, which a receiver from %s could not tell", driver->name);
	else if (driver) {
		config.addresses =
			pattern(&arena, os->address ? os->address : driver_address(driver, &url));
		r->sink = sink_start(&config, err);
	}
	arena_release(&arena);
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

/* "2026-11-21T17:20:15.881590Z" in microseconds since 1970; 0 when there is none. */
static int64_t commit_time(struct str s)
{
	char text[40];
	int64_t us;

	if (s.n < 12 || s.n > sizeof(text) || s.p[s.n - 1] != 'Z')
		return 0;
	memcpy(text, s.p, s.n);
	for (size_t i = 0; i < s.n; i++)
		if (text[i] == 'T')
			text[i] = ' ';
	return time_parse_timestamp((struct str){ text, s.n - 1 }, &us) ? us : 0;
}

/* Fills the batch with one letter. */
static int put_letter(struct replay *r, struct batch *b, const json_t *letter, struct err *err)
{
	struct message *m = batch_next(b);
	struct str id = text(letter, "id"), address = text(letter, "address");

	*m = (struct message){ .time = commit_time(text(letter, "time")) };
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
	m->null = json_is_null(json_object_get(letter, "body")) && r->sink->driver->nulls;
	if (!m->null && !put_bytes(&b->body, letter, "body", "body_base64"))
		return err_set(err, ERR_CONFIG, "it has no \"body\"");
	m->n = b->body.n;
	strbuf_ch(&b->body, '\n');
	b->n = 1;
	b->first = ++r->given;
	return 0;
}

/* All letters of a file are compressed in one way, or none. */
static int check_encoding(struct replay *r, struct str encoding, struct err *err)
{
	if (!r->sink) {
		snprintf(r->encoding, sizeof(r->encoding), "%.*s", STR_ARG(encoding));
		return start(r, err);
	}
	if (str_eq(encoding, str_c(r->encoding)))
		return 0;
	return err_set(err, ERR_CONFIG,
		       "it is compressed otherwise than those before: replay it from a file of "
		       "its own");
}

static int replay_line(struct replay *r, const char *line, size_t n, struct err *err)
{
	json_error_t why;
	json_t *letter = json_loadb(line, n, JSON_ALLOW_NUL, &why);
	struct batch *b = NULL;
	int failed;

	if (!letter)
		return err_set(err, ERR_CONFIG, "it is no dead letter: %s", why.text);
	failed = check_encoding(r, text(letter, "encoding"), err);
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
	if (r->sink)
		sink_drain(r->sink);
	while (r->sink && sink_taken(r->sink) < r->given)
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
	else if (check(settings, &err))
		failed = -1;
	else if (!(f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re")))
		failed = err_set(&err, ERR_CONFIG, "cannot open %s: %s", path, strerror(errno));
	else
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
