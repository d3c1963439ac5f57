#include "conf/settings.h"

#include "base/strbuf.h"
#include "base/url.h"
#include "base/utf8.h"
#include "conf/document.h"
#include "conf/outputs.h"
#include "conf/preset.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#define MAX_FILE (1u << 20)
#define ENV_PREFIX "PGHERALD_"

static void *field(struct settings *s, const struct option *o)
{
	return (char *)s + o->at;
}

void settings_init(struct settings *s)
{
	struct err err;

	*s = (struct settings){ 0 };
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options[i];

		if (o->def && option_set(o, field(s, o), &s->arena, str_c(o->def), &err))
			abort();
	}
}

void settings_release(struct settings *s)
{
	arena_release(&s->arena);
	*s = (struct settings){ 0 };
}

/* Sets an option for all, or adds an output. */
static int set(struct settings *s, const struct option *o, struct str text, struct err *err)
{
	struct output_settings *os;

	if (o->type != OPTION_OUTPUT)
		return option_set(o, field(s, o), &s->arena, text, err);
	os = outputs_add(s, err);
	return os ? outputs_set_url(s, os, text, err) : -1;
}

int settings_set(struct settings *s, const char *name, const char *value, struct err *err)
{
	const struct option *o = options_find(str_c(name), 0), *like;

	if (!o || o->flags & OPTION_FLAG_ONLY) {
		like = options_suggest(str_c(name), NULL);
		return err_set(err, ERR_CONFIG, "there is no option \"%.100s\"%s%s", name,
			       like ? ", did you mean " : "", like ? like->name : "");
	}
	if (set(s, o, str_c(value), err))
		return err_add(err, "%s", o->name);
	outputs_inherit(s);
	return 0;
}

static int read_file(struct settings *s, const struct preset *preset, struct err *err)
{
	struct strbuf text = { 0 };
	FILE *f = fopen(s->file, "re");
	size_t n = 1;
	int failed;

	if (!f)
		return err_set(err, ERR_CONFIG, "cannot read %s: %s", s->file, strerror(errno));
	while (n > 0 && text.n <= MAX_FILE) {
		n = fread(strbuf_room(&text, 65536), 1, 65536, f);
		text.n += n;
	}
	if (ferror(f))
		failed = err_set(err, ERR_CONFIG, "cannot read %s: %s", s->file, strerror(errno));
	else if (preset_has_document(preset))
		failed = preset_document(preset, s, s->file, strbuf_view(&text), err);
	else
		failed = document_read(s, s->file, strbuf_view(&text), err);
	fclose(f);
	strbuf_release(&text);
	return failed;
}

/* ---- the environment ---- */

extern char **environ;

static int read_variable(struct settings *s, const char *variable, struct err *err)
{
	const char *eq = strchrnul(variable, '=');
	struct str name = { variable, (size_t)(eq - variable) };
	const struct option *o;
	char lower[64];
	bool negated;

	if (!*eq || !str_starts(name, STR(ENV_PREFIX)) || name.n >= sizeof(lower))
		return 0;
	name = str_from(name, sizeof(ENV_PREFIX) - 1);
	for (size_t i = 0; i < name.n; i++)
		lower[i] = (char)tolower((unsigned char)name.p[i]);
	o = options_find_bool((struct str){ lower, name.n }, '_', &negated);
	if (!o || o->flags & OPTION_FLAG_ONLY)
		return 0;
	if (o->type == OPTION_OUTPUT)
		s->noutputs = 0;
	if (set(s, o, str_c(eq + 1), err)) {
		err->kind = ERR_CONFIG;
		return err_add(err, "%.*s", (int)(eq - variable), variable);
	}
	if (negated)
		*(bool *)field(s, o) ^= true;
	return 0;
}

/* Variables that are no option are none of ours: Kubernetes makes PGHERALD_PORT and the like of a
 * service's name. */
static int read_environment(struct settings *s, struct err *err)
{
	for (char **e = environ; *e; e++)
		if (read_variable(s, *e, err))
			return -1;
	return 0;
}

/* ---- the command line ---- */

struct args {
	const char *verb;
	const struct preset *preset; /* or NULL */
	int argc;
	char **argv;
	struct err *err;
	int i;
	size_t positional;    /* arguments without a flag so far */
	bool only_positional; /* behind -- */
};

/* An argument taken apart. */
struct arg {
	const struct option *option;
	const struct preset_word *word; /* of the preset, in place of an option */
	struct str shown;               /* the flag as it was written */
	const char *value;
	bool negated;
};

static int usage(struct args *a, const char *what, struct str flag)
{
	return err_set(a->err, ERR_USAGE, "%.*s: %s (see pgherald %s --help)",
		       (int)(flag.n < 100 ? flag.n : 100), flag.p, what, a->verb);
}

static int unknown_flag(struct args *a, const struct arg *arg)
{
	struct str name = str_from(arg->shown, arg->shown.n > 2 ? 2 : arg->shown.n);
	const struct option *like = options_suggest(name, a->verb);
	char what[100] = "there is no such option";

	if (arg->option)
		snprintf(what, sizeof(what), "it is not an option of %.20s", a->verb);
	else if (like)
		snprintf(what, sizeof(what), "there is no such option, did you mean --%s?",
			 like->name);
	return usage(a, what, arg->shown);
}

static const struct option *find_letter(char letter)
{
	for (size_t i = 0; i < options_count; i++)
		if (options[i].letter && options[i].letter == letter)
			return &options[i];
	return NULL;
}

/* Finds the option that an argument names; value is what stands in the same argument, or NULL. */
static void parse_flag(struct arg *arg, const char *text)
{
	const char *eq = strchrnul(text, '=');

	if (text[1] == '-') {
		arg->shown = (struct str){ text, (size_t)(eq - text) };
		arg->option = options_find_bool(str_from(arg->shown, 2), '-', &arg->negated);
		arg->value = *eq ? eq + 1 : NULL;
	} else {
		arg->shown = (struct str){ text, 2 };
		arg->option = find_letter(text[1]);
		arg->value = text[2] ? text + 2 : NULL;
	}
}

/* Takes the next option off the arguments; 0 when there is none left. */
static int next_arg(struct args *a, struct arg *arg)
{
	const char *text = a->i < a->argc ? a->argv[a->i++] : NULL;

	*arg = (struct arg){ 0 };
	if (text && !a->only_positional && strcmp(text, "--") == 0) {
		a->only_positional = true;
		return next_arg(a, arg);
	}
	if (!text)
		return 0;
	if (text[0] != '-' || !text[1] || a->only_positional) {
		arg->option = options_argument(a->verb, a->positional);
		if (!arg->option && a->positional)
			return usage(a,
				     strchr(text, '=') ? "put quotes around one with spaces"
						       : "there is one argument too many",
				     str_c(options_argument(a->verb, a->positional - 1)->arg));
		if (!arg->option)
			return usage(a, "it takes no argument", str_c(a->verb));
		a->positional++;
		arg->shown = str_c(arg->option->arg);
		arg->value = text;
		return 1;
	}
	parse_flag(arg, text);
	if (!arg->option || !option_of_verb(arg->option, a->verb))
		arg->word = text[1] == '-' ? preset_flag(a->preset, str_from(arg->shown, 2)) : NULL;
	if (arg->word)
		arg->option = NULL;
	else if (!arg->option || !option_of_verb(arg->option, a->verb))
		return unknown_flag(a, arg);
	if (arg->option && arg->option->type == OPTION_BOOL && !arg->value)
		arg->value = "true";
	if (!arg->value && a->i == a->argc)
		return usage(a, "its value is missing", arg->shown);
	if (!arg->value)
		arg->value = a->argv[a->i++];
	return 1;
}

/* Looks for what must be known before anything else is read; complains of unknown options. */
static int look_ahead(struct settings *s, struct args a)
{
	struct arg arg;
	int found;

	while ((found = next_arg(&a, &arg)) > 0) {
		if (arg.word)
			continue;
		if (strcmp(arg.option->name, "help") == 0) {
			s->help = true;
			return 0;
		}
		if (strcmp(arg.option->name, "config") == 0)
			s->file = arena_copy(&s->arena, arg.value, str_c(arg.value).n);
	}
	return found;
}

static int take_arg(struct settings *s, const struct arg *arg, struct err *err)
{
	if (arg->word)
		return preset_set(s, arg->word, arg->value, err);
	if (set(s, arg->option, str_c(arg->value), err))
		return -1;
	if (arg->negated)
		*(bool *)field(s, arg->option) ^= true;
	return 0;
}

static int read_arguments(struct settings *s, struct args a)
{
	bool seen_to = false;
	struct arg arg;
	int found;

	while ((found = next_arg(&a, &arg)) > 0) {
		if (!arg.word && arg.option->type == OPTION_OUTPUT && !seen_to) {
			s->noutputs = 0;
			seen_to = true;
		}
		if (take_arg(s, &arg, a.err)) {
			a.err->kind = ERR_USAGE;
			return err_add(a.err, "%.*s", STR_ARG(arg.shown));
		}
	}
	return found;
}

static int load(struct settings *s, struct args a)
{
	const char *file = getenv(ENV_PREFIX "CONFIG");
	struct output_settings *os;

	if (preset_find(&a.preset, a.argc, a.argv, a.err) || look_ahead(s, a) || s->help)
		return s->help ? 0 : -1;
	if (!s->file && file)
		s->file = arena_copy(&s->arena, file, strlen(file));
	if (!s->file)
		s->file = preset_file(a.preset);
	if ((s->file && read_file(s, a.preset, a.err)) || preset_environment(a.preset, s, a.err) ||
	    read_environment(s, a.err) || read_arguments(s, a) || preset_finish(a.preset, s, a.err))
		return -1;
	if (s->noutputs == 0) {
		os = outputs_add(s, a.err);
		os->to = "stdout:";
	}
	outputs_inherit(s);
	return 0;
}

int settings_load(struct settings *s, const char *verb, int argc, char **argv, struct err *err)
{
	struct args a = { .verb = verb, .argc = argc, .argv = argv, .err = err };

	settings_init(s);
	if (load(s, a) == 0)
		return 0;
	settings_release(s);
	return -1;
}

/* ---- what is in force ---- */

int settings_check_reload(const struct settings *old, const struct settings *new, struct err *err)
{
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options[i];

		if (!(o->flags & (OPTION_RELOAD | OPTION_FLAG_ONLY)) &&
		    !option_equal(o, (const char *)old + o->at, (const char *)new + o->at))
			return err_set(err, ERR_CONFIG, "%s changes only with a restart", o->name);
	}
	return 0;
}

static bool skip_blanks(struct str *s)
{
	while (s->n && isspace((unsigned char)s->p[0]))
		*s = str_from(*s, 1);
	return s->n > 0;
}

/* The length of a value in a keyword string: quoted, or up to a blank; backslashes escape. */
static size_t value_len(struct str s)
{
	bool quoted = s.n && s.p[0] == '\'';
	size_t n = quoted;

	while (n < s.n && (quoted ? s.p[n] != '\'' : !isspace((unsigned char)s.p[n])))
		n += s.p[n] == '\\' && n + 1 < s.n ? 2 : 1;
	return n < s.n ? n + quoted : n;
}

/* A value of a keyword string; dbname may hold a whole URI. */
static void mask_value(struct strbuf *out, struct str name, struct str value)
{
	bool quoted = str_starts(value, STR("'"));

	if (url_is_secret(name)) {
		strbuf_lit(out, "***");
		return;
	}
	if (quoted)
		strbuf_ch(out, '\'');
	value = str_from(value, quoted);
	if (value.n && memmem(value.p, value.n, "://", 3))
		url_mask(out, value);
	else
		strbuf_str(out, value);
}

/* A URI, or keywords as libpq reads them. */
void settings_mask(struct strbuf *out, struct str s)
{
	size_t n = 0;

	while (n < s.n && (isalnum((unsigned char)s.p[n]) || strchr("+-.", s.p[n])))
		n++;
	if (str_starts(str_from(s, n), STR("://"))) {
		url_mask(out, s);
		return;
	}
	while (skip_blanks(&s)) {
		const char *eq = memchr(s.p, '=', s.n);
		struct str name = { s.p, eq ? (size_t)(eq - s.p) : s.n }, value;

		strbuf_str(out, out->n ? STR(" ") : STR(""));
		strbuf_str(out, name);
		if (!eq)
			return;
		strbuf_ch(out, '=');
		s = str_from(s, name.n + 1);
		skip_blanks(&s);
		value = (struct str){ s.p, value_len(s) };
		mask_value(out, name, value);
		s = str_from(s, value.n);
	}
}

/* The code point of a valid sequence of n bytes. */
static unsigned decode(const char *p, size_t n)
{
	unsigned c = (unsigned char)p[0] & (n == 1 ? 0x7f : 0xff >> (n + 1));

	for (size_t i = 1; i < n; i++)
		c = c << 6 | ((unsigned char)p[i] & 0x3f);
	return c;
}

/* What YAML refuses as it is or takes for the end of a line. */
static bool must_escape(unsigned c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff ||
	       c == 0xfffe || c == 0xffff;
}

/* In double quotes, so that it is read back as the same text; dollars are doubled in values. What
 * is not UTF-8 cannot be said in YAML and becomes U+FFFD. */
static void print_quoted(FILE *f, struct str s, bool is_key)
{
	size_t n;

	fputc('"', f);
	for (; s.n; s = str_from(s, n ? n : 1)) {
		n = utf8_len(s.p, s.p + s.n);
		if (n == 0 || must_escape(decode(s.p, n)))
			fprintf(f, "\\u%04x", n ? decode(s.p, n) : 0xfffd);
		else if (*s.p == '"' || *s.p == '\\' || (*s.p == '$' && !is_key))
			fprintf(f, "%c%c", *s.p == '$' ? '$' : '\\', *s.p);
		else
			fwrite(s.p, 1, n, f);
	}
	fputc('"', f);
}

static void print_masked(FILE *f, const char *text, void (*mask)(struct strbuf *, struct str))
{
	struct strbuf masked = { 0 };

	mask(&masked, str_c(text));
	print_quoted(f, strbuf_view(&masked), false);
	strbuf_release(&masked);
}

static void print_items(FILE *f, const struct option *o, const struct strings *items)
{
	bool pairs = o->type == OPTION_PAIRS;

	fputc(pairs ? '{' : '[', f);
	for (size_t i = 0; i < items->n; i++) {
		struct str item = str_c(items->v[i]);
		size_t key = pairs ? (size_t)(strchr(item.p, '=') - item.p) : 0;

		fputs(i ? ", " : "", f);
		if (pairs) {
			print_quoted(f, (struct str){ item.p, key }, true);
			fputs(": ", f);
			item = str_from(item, key + 1);
		}
		print_quoted(f, item, false);
	}
	fputc(pairs ? '}' : ']', f);
}

static void print_option(FILE *f, const char *indent, const struct option *o, const void *at)
{
	if (option_unset(o, at))
		return;
	fputs(indent, f);
	for (const char *c = o->name; *c; c++)
		fputc(*c == '-' ? '_' : *c, f);
	fputs(": ", f);
	if (option_is_list(o))
		print_items(f, o, at);
	else if (o->type == OPTION_BOOL)
		fputs(*(const bool *)at ? "true" : "false", f);
	else if (o->type == OPTION_INT)
		fprintf(f, "%lld", (long long)*(const int64_t *)at);
	else if (o->flags & OPTION_SECRET)
		print_masked(f, *(const char *const *)at, settings_mask);
	else
		print_quoted(f, str_c(*(const char *const *)at), false);
	fputc('\n', f);
}

void settings_print(const struct settings *s, FILE *f)
{
	for (size_t i = 0; i < options_count; i++)
		if (!(options[i].flags & OPTION_FLAG_ONLY) && options[i].type != OPTION_OUTPUT)
			print_option(f, "", &options[i], (const char *)s + options[i].at);
	fputs(s->noutputs ? "outputs:\n" : "", f);
	for (size_t k = 0; k < s->noutputs; k++) {
		const struct output_settings *os = &s->outputs[k];

		fputs("  - to: ", f);
		print_masked(f, os->to, url_mask);
		fputc('\n', f);
		for (size_t i = 0; i < options_count; i++)
			if (outputs_given(os, i))
				print_option(f, "    ", &options[i],
					     (const char *)os + options[i].output_at);
	}
}
