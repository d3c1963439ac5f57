#include "conf/preset.h"

#include "base/strbuf.h"
#include "base/url.h"
#include "conf/outputs.h"

#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

enum word_kind {
	WORD_OPTION,  /* target is an option */
	WORD_LEVEL,   /* the same; its value is one of Python's levels of logging */
	WORD_KEYWORD, /* target is a keyword of the connection; libpq knows the variable itself */
	WORD_URL,     /* the broker */
	WORD_PLACE,   /* target is the parameter of the broker's URL that has this value */
	WORD_QUEUE,   /* the same, for those who read */
	WORD_NOTHING, /* accepted, and without any meaning here */
};

struct preset_word {
	const char *name; /* as in help; case, dashes and underscores do not count */
	enum word_kind kind;
	const char *target;
};

/* An option that is set when nobody has said anything of it. */
struct preset_default {
	const char *option, *value;
};

struct preset {
	const char *name;
	const struct preset_word *words;              /* ends with a zeroed row */
	const struct preset_default *defaults;        /* likewise */
	const char *broker;                           /* how the schemes of its URLs begin */
	const struct preset_default *broker_defaults; /* of outputs to it: options or parameters */
	const char *broker_params; /* those of its users' URLs that are kept, " a b " */
	/* Reads its users' configuration file; NULL: they have none. */
	int (*document)(struct settings *s, const char *name, struct str text, struct err *err);
	const char *file[2]; /* which are read when none is named: the first that is there */
};

/*
 * PGEvents publishes to a durable topic exchange with the table as routing key and nothing in the
 * properties but delivery_mode; what nobody is bound for is dropped.
 */
static const struct preset_word pgevents_words[] = {
	{ "pghost", WORD_KEYWORD, "host" },
	{ "pgport", WORD_KEYWORD, "port" },
	{ "pgdatabase", WORD_KEYWORD, "dbname" },
	{ "pguser", WORD_KEYWORD, "user" },
	{ "pgpassword", WORD_KEYWORD, "password" },
	{ "pgslot", WORD_OPTION, "slot" },
	{ "pgreplicationslot", WORD_OPTION, "slot" },
	{ "pgtables", WORD_OPTION, "tables" },
	{ "pgpublication", WORD_OPTION, "publication" },
	{ "pgpublicationname", WORD_OPTION, "publication" },
	{ "pgoutputplugin", WORD_NOTHING, NULL },
	{ "rabbitmqurl", WORD_URL, NULL },
	{ "rabbitmqexchange", WORD_PLACE, "exchange" },
	{ "rabbitmqqueuename", WORD_QUEUE, "queue" },
	{ "queuename", WORD_QUEUE, "queue" },
	{ "rabbitmqbindingkeys", WORD_OPTION, "keys" },
	{ "bindingkeys", WORD_OPTION, "keys" },
	{ "loglevel", WORD_LEVEL, "log-level" },
	{ 0 },
};

static const struct preset_default pgevents_defaults[] = {
	{ "format", "pgevents" },
	{ "actions", "insert,update,delete" },
	{ 0 },
};

static const struct preset_default pgevents_broker[] = {
	{ "compress", "brotli" },
	{ "address", "{schema}.{table}" },
	{ "mandatory", "false" },
	{ "properties", "none" },
	{ 0 },
};

static const struct preset_word no_words[] = { { 0 } };
static const struct preset_default no_defaults[] = { { 0 } };

static const struct preset presets[] = {
	{ "pgevents",
	  pgevents_words,
	  pgevents_defaults,
	  "amqp",
	  pgevents_broker,
	  " heartbeat ",
	  NULL,
	  { NULL } },
	{ "wal-listener",
	  no_words,
	  no_defaults,
	  "",
	  no_defaults,
	  "",
	  preset_read_wal_listener,
	  { "config.yml" } },
	{ "pgwalstreams",
	  no_words,
	  no_defaults,
	  "",
	  no_defaults,
	  "",
	  preset_read_pgwalstreams,
	  { "/conf/config.yaml", "/conf/config.yml" } },
	{ 0 },
};

/* ---- finding ---- */

static int find_name(const struct preset **preset, const char *name, struct err *err)
{
	for (*preset = presets; (*preset)->name; (*preset)++)
		if (strcmp((*preset)->name, name) == 0)
			return 0;
	return err_set(err, ERR_CONFIG,
		       "preset: \"%.50s\" is not one of pgevents, wal-listener and pgwalstreams",
		       name);
}

int preset_find(const struct preset **preset, int argc, char **argv, struct err *err)
{
	const char *name = getenv("PGHERALD_PRESET");

	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (strncmp(argv[i], "--preset=", 9) == 0)
			name = argv[i] + 9;
		else if (strcmp(argv[i], "--preset") == 0 && i + 1 < argc)
			name = argv[++i];
	}
	*preset = NULL;
	return name ? find_name(preset, name, err) : 0;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* Whether both are the same but for case, dashes and underscores; b has none of these. */
static bool is_word(struct str a, const char *b)
{
	for (size_t i = 0; i < a.n; i++) {
		char c = lower(a.p[i]);

		if (c != '-' && c != '_' && c != *b++)
			return false;
	}
	return !*b;
}

const struct preset_word *preset_flag(const struct preset *p, struct str name)
{
	for (const struct preset_word *w = p ? p->words : NULL; w && w->name; w++)
		if (is_word(name, w->name))
			return w;
	return NULL;
}

const char *preset_file(const struct preset *p)
{
	if (p && p->file[1] && access(p->file[0], F_OK) && access(p->file[1], F_OK) == 0)
		return p->file[1];
	return p ? p->file[0] : NULL;
}

bool preset_has_document(const struct preset *p)
{
	return p && p->document;
}

int preset_document(const struct preset *p, struct settings *s, const char *name, struct str text,
		    struct err *err)
{
	return p->document(s, name, text, err);
}

/* ---- values ---- */

void preset_quote(struct strbuf *b, const char *value)
{
	strbuf_ch(b, '\'');
	for (; *value; value++) {
		if (*value == '\'' || *value == '\\')
			strbuf_ch(b, '\\');
		strbuf_ch(b, *value);
	}
	strbuf_ch(b, '\'');
}

/* A keyword that comes later overrides one before. */
static int add_keyword(struct settings *s, const char *keyword, const char *value, struct err *err)
{
	struct strbuf b = { 0 };

	if (strstr(s->connection, "://"))
		return err_set(err, ERR_CONFIG,
			       "the connection is a URI already; say it there or leave that out");
	strbuf_printf(&b, "%s%s%s=", s->connection, *s->connection ? " " : "", keyword);
	preset_quote(&b, value);
	s->connection = arena_copy(&s->arena, b.p, b.n);
	strbuf_release(&b);
	return 0;
}

static const char *level(const char *python)
{
	static const char *const levels[][2] = { { "warning", "warn" }, { "critical", "error" },
						 { "fatal", "error" },  { "notset", "debug" },
						 { "debug", "debug" },  { "info", "info" },
						 { "error", "error" } };

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (strcasecmp(levels[i][0], python) == 0)
			return levels[i][1];
	return python;
}

static int set_option(struct settings *s, const char *name, const char *value, struct err *err)
{
	const struct option *o = options_find(str_c(name), 0);

	return option_set(o, (char *)s + o->at, &s->arena, str_c(value), err);
}

/* "&exchange=x" */
static void set_place(struct settings *s, const char **place, const char *param, const char *value)
{
	struct strbuf b = { 0 };

	strbuf_printf(&b, "&%s=", param);
	url_encode(&b, str_c(value));
	*place = arena_copy(&s->arena, b.p, b.n);
	strbuf_release(&b);
}

int preset_set(struct settings *s, const struct preset_word *w, const char *value, struct err *err)
{
	switch (w->kind) {
	case WORD_OPTION:
		return set_option(s, w->target, value, err);
	case WORD_LEVEL:
		return set_option(s, w->target, level(value), err);
	case WORD_KEYWORD:
		return add_keyword(s, w->target, value, err);
	case WORD_URL:
		s->preset_url = arena_copy(&s->arena, value, strlen(value));
		return 0;
	case WORD_PLACE:
		set_place(s, &s->preset_place, w->target, value);
		return 0;
	case WORD_QUEUE:
		set_place(s, &s->preset_queue, w->target, value);
		return 0;
	case WORD_NOTHING:
		return 0;
	}
	return 0;
}

extern char **environ;

int preset_environment(const struct preset *p, struct settings *s, struct err *err)
{
	for (char **e = environ; p && *e; e++) {
		const char *eq = strchrnul(*e, '=');
		struct str name = { *e, (size_t)(eq - *e) };
		const struct preset_word *w = preset_flag(p, name);

		if (!*eq || !eq[1] || !w || w->kind == WORD_KEYWORD || !isupper((unsigned char)**e))
			continue;
		if (preset_set(s, w, eq + 1, err))
			return err_add(err, "%.*s", STR_ARG(name));
	}
	return 0;
}

/* ---- the output ---- */

static bool has_param(struct str url, struct str wanted)
{
	const char *mark = url.n ? memchr(url.p, '?', url.n) : NULL;
	struct str query = mark ? str_from(url, (size_t)(mark + 1 - url.p)) : STR(""), name, value;

	while (url_query_next(&query, &name, &value))
		if (str_eq(name, wanted))
			return true;
	return false;
}

/* The broker's URL with the place, and of its own parameters those that are ours too. */
static const char *place_url(const struct preset *p, struct settings *s)
{
	struct str url = str_c(s->preset_url), name, value, query;
	size_t head = strcspn(url.p, "?");
	struct strbuf b = { 0 };
	size_t mark;
	char word[40];

	query = str_from(url, head + (head < url.n));
	strbuf_add(&b, url.p, head);
	mark = b.n;
	strbuf_str(&b, str_c(s->preset_place));
	while (url_query_next(&query, &name, &value)) {
		snprintf(word, sizeof(word), " %.*s ", (int)(name.n < 30 ? name.n : 30), name.p);
		if (strstr(p->broker_params, word))
			strbuf_printf(&b, "&%.*s=%.*s", STR_ARG(name), STR_ARG(value));
	}
	if (b.n > mark)
		b.p[mark] = '?';
	s->preset_url = arena_copy(&s->arena, b.p, b.n);
	strbuf_release(&b);
	return s->preset_url;
}

/* What is read is the broker's URL with the queue, unless there is another URL. */
static void add_source(struct settings *s)
{
	struct strbuf b = { 0 };

	if (s->url)
		return;
	strbuf_printf(&b, "%s%s", s->preset_url, s->preset_queue ? s->preset_queue : "");
	s->url = arena_copy(&s->arena, b.p, b.n);
	strbuf_release(&b);
}

static int add_output(const struct preset *p, struct settings *s, struct err *err)
{
	struct output_settings *os = outputs_add(s, err);

	if (!os)
		return -1;
	if (!s->preset_place || !has_param(str_c(place_url(p, s)), STR("exchange")))
		return err_set(err, ERR_CONFIG,
			       "the exchange is missing: RABBITMQ_EXCHANGE or --rabbitmq-exchange");
	add_source(s);
	return outputs_set_url(s, os, str_c(s->preset_url), err);
}

/* An option of the output that neither it nor all have, or a parameter that its URL has not. */
static int set_default(struct settings *s, struct output_settings *os,
		       const struct preset_default *d, struct err *err)
{
	const struct option *o = options_find(str_c(d->option), 0);
	struct strbuf b = { 0 };

	if (o && option_unset(o, (char *)s + o->at) && option_unset(o, (char *)os + o->output_at))
		return option_set(o, outputs_field(os, o), &s->arena, str_c(d->value), err);
	if (o || has_param(str_c(os->to), str_c(d->option)))
		return 0;
	strbuf_printf(&b, "%s%c%s=%s", os->to, strchr(os->to, '?') ? '&' : '?', d->option, d->value);
	os->to = arena_copy(&s->arena, b.p, b.n);
	strbuf_release(&b);
	return 0;
}

int preset_finish(const struct preset *p, struct settings *s, struct err *err)
{
	if (!p)
		return 0;
	if (s->noutputs == 0 && s->preset_url && add_output(p, s, err))
		return err_add(err, "preset %s", p->name);
	for (const struct preset_default *d = p->defaults; d->option; d++) {
		const struct option *o = options_find(str_c(d->option), 0);

		if (option_unset(o, (char *)s + o->at) && set_option(s, d->option, d->value, err))
			return err_add(err, "%s", d->option);
	}
	for (size_t i = 0; i < s->noutputs; i++)
		for (const struct preset_default *d = p->broker_defaults;
		     d->option && strncmp(s->outputs[i].to, p->broker, strlen(p->broker)) == 0; d++)
			if (set_default(s, &s->outputs[i], d, err))
				return err_add(err, "%s", d->option);
	return 0;
}
