/*
 * Every format against the bytes it has to write. A Markdown file has to show what each format
 * makes of the event "example". Any other argument is a file of lines:
 *
 *   # comment
 *   format NAME
 *   set OPTION VALUE
 *   EVENT the message expected, or - for none
 *   key EVENT the key expected, or - for none
 *
 * @VERSION@ in what is expected is the program's own. Events are those of events.c. A message that
 * carries a position has to give it back.
 */
#include "../unit/test.h"

#include "encode/encode.h"
#include "events.h"

#include <stdio.h>
#include <stdlib.h>

struct file {
	const char *path;
	const struct format *format;
	struct encode_options options;
	struct arena arena;
	unsigned int line;
	unsigned int failed;
	unsigned int checked;
};

static bool take_word(struct str *s, struct str *word)
{
	const char *blank = s->n ? memchr(s->p, ' ', s->n) : NULL;

	*word = (struct str){ s->p, blank ? (size_t)(blank - s->p) : s->n };
	*s = str_from(*s, word->n + (blank != NULL));
	return word->n > 0;
}

static bool set_value_option(struct encode_options *o, const char *name, const char *value)
{
	if (strcmp(name, "numeric") == 0)
		o->numeric = strcmp(value, "string") == 0 ? NUMBER_STRING : NUMBER_JSON;
	else if (strcmp(name, "int8") == 0)
		o->int8 = strcmp(value, "string") == 0 ? NUMBER_STRING : NUMBER_JSON;
	else if (strcmp(name, "bytea") == 0)
		o->bytea = strcmp(value, "base64") == 0 ? BYTEA_BASE64 : BYTEA_HEX;
	else if (strcmp(name, "timestamps") == 0)
		o->timestamps = strcmp(value, "epoch_us") == 0 ? TIME_EPOCH_US : TIME_ISO;
	else
		return false;
	return true;
}

static void set(struct file *f, const char *name, const char *value)
{
	struct encode_options *o = &f->options;
	const struct {
		const char *name;
		const char **text;
		bool *flag;
	} options[] = {
		{ "variant", &o->variant, NULL },
		{ "recorded_at", NULL, &o->recorded_at },
		{ "transactions", NULL, &o->transactions },
		{ "decimal_mode", &o->decimal_mode, NULL },
		{ "time_precision", &o->time_precision, NULL },
		{ "interval_mode", &o->interval_mode, NULL },
		{ "binary_mode", &o->binary_mode, NULL },
		{ "hstore_mode", &o->hstore_mode, NULL },
	};

	if (set_value_option(o, name, value))
		return;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (strcmp(options[i].name, name) != 0)
			continue;
		if (options[i].text)
			*options[i].text = value;
		if (options[i].flag)
			*options[i].flag = strcmp(value, "true") == 0;
		return;
	}
	fail_msg("%s:%u: no option %s", f->path, f->line, name);
}

static void expect(struct file *f, const char *what, struct str got, struct str want)
{
	f->checked++;
	if (str_eq(got, want))
		return;
	f->failed++;
	fprintf(stderr, "%s:%u: %s\n  want %.*s\n  got  %.*s\n", f->path, f->line, what,
		STR_ARG(want), STR_ARG(got));
}

static const struct event *event_named(struct file *f, struct str name)
{
	const char *c = arena_copy(&f->arena, name.p, name.n);
	const struct event *e = events_get(c);

	if (!e)
		fail_msg("%s:%u: no event %s", f->path, f->line, c);
	return e;
}

static void check_key(struct file *f, struct str name, struct str want)
{
	struct strbuf out = { 0 };

	if (f->format->key)
		f->format->key(&f->options, event_named(f, name), &out);
	else
		encode_key(&f->options, event_named(f, name), &out);
	expect(f, "key", out.n ? strbuf_view(&out) : STR("-"), want);
	strbuf_release(&out);
}

/* The message is appended: what stands before it must stay, also where there is none. */
static void check_message(struct file *f, struct str name, struct str want)
{
	const struct event *e = event_named(f, name);
	struct position p = { 0 };
	struct strbuf out = { 0 };
	struct str got;

	strbuf_lit(&out, "before,");
	if (!f->format->event(&f->options, e, &out))
		strbuf_ch(&out, '-');
	got = strbuf_view(&out);
	if (str_starts(got, STR("before,")))
		got = str_from(got, 7);
	expect(f, "message", got, want);
	if (f->format->position && !str_eq(want, STR("-")) &&
	    (!f->format->position(want, &p) || position_cmp(p, e->position) != 0)) {
		f->failed++;
		fprintf(stderr, "%s:%u: the message does not give its position back\n", f->path,
			f->line);
	}
	strbuf_release(&out);
}

static struct str with_version(struct file *f, struct str line)
{
	const char *at = memmem(line.p, line.n, "@VERSION@", 9);
	struct strbuf b = { 0 };

	if (!at)
		return line;
	strbuf_add(&b, line.p, (size_t)(at - line.p));
	strbuf_lit(&b, PGHERALD_VERSION);
	strbuf_str(&b, str_from(line, (size_t)(at - line.p) + 9));
	line = (struct str){ arena_copy(&f->arena, b.p, b.n), b.n };
	strbuf_release(&b);
	return line;
}

static void check_line(struct file *f, struct str line)
{
	struct str first, second;

	if (line.n == 0 || *line.p == '#')
		return;
	line = with_version(f, line);
	take_word(&line, &first);
	if (str_eq(first, STR("format"))) {
		f->format = encode_format(arena_copy(&f->arena, line.p, line.n));
		if (!f->format)
			fail_msg("%s:%u: no format %.*s", f->path, f->line, STR_ARG(line));
	} else if (str_eq(first, STR("set"))) {
		take_word(&line, &second);
		set(f, arena_copy(&f->arena, second.p, second.n),
		    arena_copy(&f->arena, line.p, line.n));
	} else if (str_eq(first, STR("key"))) {
		take_word(&line, &second);
		check_key(f, second, line);
	} else {
		check_message(f, first, line);
	}
}

static void test_file(void **state)
{
	struct file f = { .path = *state, .options.transactions = true };
	FILE *in = fopen(f.path, "r");
	size_t size = 0;
	char *line = NULL;
	ssize_t n;

	if (!in)
		fail_msg("%s cannot be read", f.path);
	while ((n = getline(&line, &size, in)) > 0) {
		f.line++;
		check_line(&f, (struct str){ line, (size_t)n - (line[n - 1] == '\n') });
	}
	free(line);
	fclose(in);
	arena_release(&f.arena);
	assert_int_equal(f.failed, 0);
	assert_true(f.checked > 0);
}

/* The documentation's examples, each on a line of its own. */
static void test_documentation(void **state)
{
	struct encode_options o = { .transactions = true };
	struct strbuf text = { 0 }, out = { 0 };
	FILE *in = fopen(*state, "r");
	unsigned int missing = 0;
	int c;

	if (!in) {
		fail_msg("%s cannot be read", (const char *)*state);
		return;
	}
	while ((c = getc(in)) != EOF)
		strbuf_ch(&text, (char)c);
	fclose(in);
	for (const struct format *const *f = encode_formats; *f; f++) {
		if (strcmp((*f)->name, "pretty") == 0)
			continue;
		out.n = 0;
		strbuf_ch(&out, '\n');
		(*f)->event(&o, events_get("example"), &out);
		strbuf_ch(&out, '\n');
		if (text.n && memmem(text.p, text.n, out.p, out.n))
			continue;
		missing++;
		fprintf(stderr, "%s: not there: %.*s", (const char *)*state,
			STR_ARG(str_from(strbuf_view(&out), 1)));
	}
	strbuf_release(&out);
	strbuf_release(&text);
	assert_int_equal(missing, 0);
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[64];
	size_t n = 0;
	int failed;

	events_init();
	for (int i = 1; i < argc && n < sizeof(tests) / sizeof(tests[0]); i++)
		tests[n++] = (struct CMUnitTest){
			.name = argv[i],
			.test_func = strstr(argv[i], ".md") ? test_documentation : test_file,
			.initial_state = argv[i],
		};
	failed = _cmocka_run_group_tests("golden", tests, n, NULL, NULL);
	events_release();
	return failed;
}
