#include "conf/settings.h"

#include "base/strbuf.h"
#include "base/url.h"
#include "conf/options.h"
#include "conf/yaml.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#define MAX_OUTPUTS 64
#define MAX_FILE (1u << 20)
#define ENV_PREFIX "PGHERALD_"

static void *field(struct settings *s, const struct option *o)
{
	return (char *)s + o->at;
}

static void *output_field(struct output_settings *os, const struct option *o)
{
	return (char *)os + o->output_at;
}

static uint64_t bit(const struct option *o)
{
	return (uint64_t)1 << (o - options);
}

static bool is_to(const struct option *o)
{
	return o->flags & OPTION_REPEAT;
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

static struct output_settings *add_output(struct settings *s, struct err *err)
{
	if (s->noutputs == MAX_OUTPUTS) {
		err_set(err, ERR_CONFIG, "there can be %d outputs", MAX_OUTPUTS);
		return NULL;
	}
	if (!s->outputs)
		s->outputs = arena_alloc(&s->arena, MAX_OUTPUTS * sizeof(*s->outputs));
	s->outputs[s->noutputs] = (struct output_settings){ 0 };
	return &s->outputs[s->noutputs++];
}

/* Gives the outputs what was not said of them alone. */
static void inherit(struct settings *s)
{
	for (size_t k = 0; k < s->noutputs; k++)
		for (size_t i = 0; i < options_count; i++) {
			const struct option *o = &options[i];

			if (option_of_output(o) && !(s->outputs[k].given & bit(o)))
				option_copy(o, output_field(&s->outputs[k], o), field(s, o));
		}
}

static int set_of_output(struct settings *s, struct output_settings *os, const struct option *o,
			 struct str text, struct err *err)
{
	os->given |= bit(o);
	return option_set(o, output_field(os, o), &s->arena, text, err);
}

/* Takes one parameter of an output's URL if it is an option, otherwise leaves it in `rest`. */
static int take_param(struct settings *s, struct output_settings *os, struct str name,
		      struct str value, struct strbuf *rest, struct err *err)
{
	const struct option *o = options_find(name, 0);
	const char *text;

	if (!o || !option_of_output(o) || is_to(o)) {
		strbuf_ch(rest, '&');
		strbuf_add(rest, name.p, (size_t)(value.p + value.n - name.p));
		return 0;
	}
	text = url_decode(&s->arena, value);
	if (!text)
		return err_set(err, ERR_CONFIG, "%s: a %% is not followed by two hex digits", o->name);
	if (set_of_output(s, os, o, str_c(text), err))
		return err_add(err, "%s", o->name);
	return 0;
}

/* The output's URL; a word without a colon is a scheme alone. */
static int set_url(struct settings *s, struct output_settings *os, const struct option *o,
		   struct str text, struct err *err)
{
	const char *mark = text.n ? memchr(text.p, '?', text.n) : NULL;
	struct str query = { NULL, 0 }, name, value;
	struct strbuf rest = { 0 };
	size_t head;
	int failed = 0;

	if (mark) {
		query = str_from(text, (size_t)(mark + 1 - text.p));
		text.n = (size_t)(mark - text.p);
	}
	strbuf_str(&rest, text);
	if (text.n && !memchr(text.p, ':', text.n))
		strbuf_ch(&rest, ':');
	head = rest.n;
	while (!failed && url_query_next(&query, &name, &value))
		failed = take_param(s, os, name, value, &rest, err);
	if (rest.n > head)
		rest.p[head] = '?';
	if (!failed)
		failed = set_of_output(s, os, o, strbuf_view(&rest), err);
	strbuf_release(&rest);
	return failed;
}

/* Sets a top-level option. */
static int set(struct settings *s, const struct option *o, struct str text, struct err *err)
{
	struct output_settings *os;

	if (!is_to(o))
		return option_set(o, field(s, o), &s->arena, text, err);
	os = add_output(s, err);
	return os ? set_url(s, os, o, text, err) : -1;
}

int settings_set(struct settings *s, const char *name, const char *value, struct err *err)
{
	const struct option *o = options_find(str_c(name), 0);

	if (!o || o->flags & OPTION_FLAG_ONLY)
		return err_set(err, ERR_CONFIG, "there is no option \"%.100s\"", name);
	if (set(s, o, str_c(value), err))
		return err_add(err, "%s", o->name);
	inherit(s);
	return 0;
}

/* ---- the file ---- */

struct file {
	const char *name;
	struct settings *s;
	struct err *err;
};

static int wrong(struct file *f, const struct yaml *node)
{
	if (node->key)
		err_add(f->err, "%s", node->key);
	return yaml_err(f->name, node, f->err);
}

static int wrong_kind(struct file *f, const struct yaml *node, const char *right)
{
	static const char *const kinds[] = { "a single value", "a list", "a mapping" };

	err_set(f->err, ERR_CONFIG, "it is %s; it must be %s",
		node->kind == YAML_SCALAR && node->absent ? "empty" : kinds[node->kind], right);
	return wrong(f, node);
}

static int unknown_key(struct file *f, const struct yaml *node, const char *where)
{
	const struct option *like = options_suggest(str_c(node->key), NULL);
	char name[64] = "";

	if (like && !(like->flags & OPTION_FLAG_ONLY)) {
		snprintf(name, sizeof(name), "; did you mean %s?", like->name);
		for (char *c = name; *c; c++)
			*c = *c == '-' ? '_' : *c;
	}
	err_set(f->err, ERR_CONFIG, "there is no such key%s%s", where, name);
	return wrong(f, node);
}

/* A list's items as strings; a mapping's as NAME=VALUE. */
static int read_items(struct file *f, const struct yaml *node, struct strings *items)
{
	struct strbuf pair = { 0 };
	size_t n = 0;

	for (const struct yaml *y = node->first; y; y = y->next) {
		if (y->kind != YAML_SCALAR || y->absent)
			return wrong_kind(f, y, "a single value");
		n++;
	}
	items->v = arena_alloc(&f->s->arena, n * sizeof(*items->v));
	for (const struct yaml *y = node->first; y; y = y->next) {
		items->v[items->n++] = y->text;
		if (y->key) {
			pair.n = 0;
			strbuf_printf(&pair, "%s=%s", y->key, y->text);
			items->v[items->n - 1] = arena_copy(&f->s->arena, pair.p, pair.n);
		}
	}
	strbuf_release(&pair);
	return 0;
}

/* A value into the option's field. */
static int read_value(struct file *f, const struct yaml *node, const struct option *o, void *at)
{
	struct strings items = { 0 };

	if (node->kind == YAML_SCALAR && !node->absent)
		return option_set(o, at, &f->s->arena, str_c(node->text), f->err) ? wrong(f, node) : 0;
	if (!option_is_list(o) || node->kind == YAML_SCALAR ||
	    (node->kind == YAML_MAP) != (o->type == OPTION_PAIRS))
		return wrong_kind(f, node, o->type == OPTION_PAIRS ? "a mapping" :
				  option_is_list(o) ? "a list or text with commas" : "a single value");
	if (read_items(f, node, &items))
		return -1;
	return option_set_list(o, at, &f->s->arena, items, f->err) ? wrong(f, node) : 0;
}

static const struct option *find_key(const struct yaml *node)
{
	const struct option *o = options_find(str_c(node->key), '_');

	return o && o->flags & OPTION_FLAG_ONLY ? NULL : o;
}

/* An output from its URL alone. */
static int read_url(struct file *f, const struct yaml *node, struct output_settings *os,
		    const struct option *to)
{
	if (node->kind != YAML_SCALAR || node->absent)
		return wrong_kind(f, node, "a URL in quotes, such as \"file:/var/log/app.json\"");
	return set_url(f->s, os, to, str_c(node->text), f->err) ? wrong(f, node) : 0;
}

static int read_output(struct file *f, const struct yaml *node, const struct option *to)
{
	struct output_settings *os = add_output(f->s, f->err);

	if (!os)
		return wrong(f, node);
	if (node->kind != YAML_MAP)
		return read_url(f, node, os, to);
	for (const struct yaml *y = node->first; y; y = y->next) {
		const struct option *o = find_key(y);

		if (!o || !option_of_output(o))
			return unknown_key(f, y, o ? " in an output" : "");
		os->given |= bit(o);
		if (o == to ? read_url(f, y, os, to) : read_value(f, y, o, output_field(os, o)))
			return -1;
	}
	if (os->to)
		return 0;
	err_set(f->err, ERR_CONFIG, "the output lacks \"to\", its URL in quotes");
	return wrong(f, node);
}

/* `to` and `outputs`: one or a list of them. */
static int read_outputs(struct file *f, const struct yaml *node)
{
	const struct option *to = options_find(STR("to"), '_');

	if (node->kind != YAML_LIST) {
		if (node->kind == YAML_MAP || node->absent)
			return wrong_kind(f, node, "a list");
		return read_output(f, node, to);
	}
	for (const struct yaml *y = node->first; y; y = y->next)
		if (read_output(f, y, to))
			return -1;
	return 0;
}

static int read_tree(struct file *f, const struct yaml *root)
{
	if (root->kind == YAML_SCALAR && root->absent)
		return 0;
	if (root->kind != YAML_MAP)
		return wrong_kind(f, root, "a mapping of keys to values");
	for (const struct yaml *y = root->first; y; y = y->next) {
		const struct option *o = find_key(y);
		bool outputs = strcmp(y->key, "outputs") == 0 || (o && is_to(o));

		if (!o && !outputs)
			return unknown_key(f, y, "");
		if (outputs ? read_outputs(f, y) : read_value(f, y, o, field(f->s, o)))
			return -1;
	}
	return 0;
}

int settings_read(struct settings *s, const char *name, struct str text, struct err *err)
{
	struct file f = { name, s, err };
	struct yaml *root;

	if (yaml_tree(&root, &s->arena, name, text, err) || (root && read_tree(&f, root)))
		return -1;
	inherit(s);
	return 0;
}

static int read_file(struct settings *s, struct err *err)
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
	failed = ferror(f) ? err_set(err, ERR_CONFIG, "cannot read %s: %s", s->file, strerror(errno)) :
			     settings_read(s, s->file, strbuf_view(&text), err);
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
	if (is_to(o))
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
	int argc;
	char **argv;
	struct err *err;
	int i;
	bool only_positional; /* behind -- */
};

/* An argument taken apart. */
struct arg {
	const struct option *option;
	struct str shown; /* the flag as it was written */
	const char *value;
	bool negated;
	bool positional;
};

static int usage(struct args *a, const char *what, struct str flag)
{
	return err_set(a->err, ERR_USAGE, "%.*s: %s; see pgherald %s --help",
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
		snprintf(what, sizeof(what), "there is no such option, did you mean --%s?", like->name);
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
		*arg = (struct arg){ &options[0], STR("CONNINFO"), text, .positional = true };
		if (!option_of_verb(arg->option, a->verb))
			return usage(a, "it takes no argument", str_c(a->verb));
		return 1;
	}
	parse_flag(arg, text);
	if (!arg->option || !option_of_verb(arg->option, a->verb))
		return unknown_flag(a, arg);
	if (arg->option->type == OPTION_BOOL && !arg->value)
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
	size_t positional = 0;
	int found;

	while ((found = next_arg(&a, &arg)) > 0) {
		if (strcmp(arg.option->name, "help") == 0) {
			s->help = true;
			return 0;
		}
		if (arg.positional && positional++)
			return usage(&a, "there is one argument too many", arg.shown);
		if (strcmp(arg.option->name, "config") == 0)
			s->file = arena_copy(&s->arena, arg.value, strlen(arg.value));
	}
	return found;
}

static int read_arguments(struct settings *s, struct args a)
{
	bool seen_to = false;
	struct arg arg;
	int found;

	while ((found = next_arg(&a, &arg)) > 0) {
		if (is_to(arg.option) && !seen_to) {
			s->noutputs = 0;
			seen_to = true;
		}
		if (set(s, arg.option, str_c(arg.value), a.err)) {
			a.err->kind = ERR_USAGE;
			return err_add(a.err, "%.*s", STR_ARG(arg.shown));
		}
		if (arg.negated)
			*(bool *)field(s, arg.option) ^= true;
	}
	return found;
}

static int load(struct settings *s, struct args a)
{
	struct output_settings *os;

	if (look_ahead(s, a) || s->help)
		return s->help ? 0 : -1;
	if (!s->file && getenv(ENV_PREFIX "CONFIG"))
		s->file = arena_copy(&s->arena, getenv(ENV_PREFIX "CONFIG"),
				     strlen(getenv(ENV_PREFIX "CONFIG")));
	if ((s->file && read_file(s, a.err)) || read_environment(s, a.err) || read_arguments(s, a))
		return -1;
	if (s->noutputs == 0) {
		os = add_output(s, a.err);
		os->to = "stdout:";
		os->given = bit(options_find(STR("to"), '-'));
	}
	inherit(s);
	return 0;
}

int settings_load(struct settings *s, const char *verb, int argc, char **argv, struct err *err)
{
	struct args a = { verb, argc, argv, err };

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
			return err_set(err, ERR_CONFIG, "%s cannot change while running; restart "
				       "for that", o->name);
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

/* A conninfo without its secrets: a URI, or keywords as libpq reads them. */
static void mask_conninfo(struct strbuf *out, struct str s)
{
	const char *eq;

	if (str_starts(s, STR("postgres://")) || str_starts(s, STR("postgresql://"))) {
		url_mask(out, s);
		return;
	}
	while (skip_blanks(&s)) {
		struct str name = s;

		if (out->n)
			strbuf_ch(out, ' ');
		eq = memchr(s.p, '=', s.n);
		name.n = eq ? (size_t)(eq - s.p) : s.n;
		strbuf_str(out, name);
		if (!eq)
			return;
		strbuf_ch(out, '=');
		s = str_from(s, name.n + 1);
		skip_blanks(&s);
		name = url_is_secret(name) ? STR("***") : (struct str){ s.p, value_len(s) };
		strbuf_str(out, name);
		s = str_from(s, value_len(s));
	}
}

/* In double quotes, so that it is read back as the same text; dollars are doubled in values. */
static void print_quoted(FILE *f, struct str s, bool is_key)
{
	fputc('"', f);
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (c < 0x20 || c == 0x7f) {
			fprintf(f, "\\x%02x", c);
			continue;
		}
		if (c == '"' || c == '\\')
			fputc('\\', f);
		if (c == '$' && !is_key)
			fputc('$', f);
		fputc(c, f);
	}
	fputc('"', f);
}

static void print_string(FILE *f, const struct option *o, struct str s)
{
	struct strbuf masked = { 0 };

	if (is_to(o))
		url_mask(&masked, s);
	else if (o->flags & OPTION_SECRET)
		mask_conninfo(&masked, s);
	print_quoted(f, o->flags & OPTION_SECRET ? strbuf_view(&masked) : s, false);
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
	else
		print_string(f, o, str_c(*(const char *const *)at));
	fputc('\n', f);
}

void settings_print(const struct settings *s, FILE *f)
{
	for (size_t i = 0; i < options_count; i++)
		if (!(options[i].flags & OPTION_FLAG_ONLY) && !is_to(&options[i]))
			print_option(f, "", &options[i], (const char *)s + options[i].at);
	fputs(s->noutputs ? "outputs:\n" : "", f);
	for (size_t k = 0; k < s->noutputs; k++) {
		const char *os = (const char *)&s->outputs[k];
		const struct option *to = options_find(STR("to"), '-');

		fputs("  - ", f);
		print_option(f, "", to, os + to->output_at);
		for (size_t i = 0; i < options_count; i++)
			if (s->outputs[k].given & bit(&options[i]) && !is_to(&options[i]))
				print_option(f, "    ", &options[i], os + options[i].output_at);
	}
}
