/*
 * The table of options. Parsing, defaults, ranges, help, manual pages, YAML keys, environment
 * names, --print-config and reload all come from its rows; a new option is a new row.
 *
 * A row "log-format" is the flag --log-format, the YAML key log_format and the environment variable
 * PGHERALD_LOG_FORMAT. Any bool has its negation --no-NAME.
 */
#ifndef PGHERALD_OPTIONS_H
#define PGHERALD_OPTIONS_H

#include "conf/settings.h"

enum option_type {
	OPTION_STRING,   /* const char *; min..max bytes */
	OPTION_SLOT,     /* const char *; a name that PostgreSQL takes for a slot */
	OPTION_POSITION, /* const char *; "now" or an LSN */
	OPTION_OUTPUT,   /* a URL; each one adds an output (conf/outputs.h) */
	OPTION_ENUM,     /* const char *; one of choices */
	OPTION_BOOL,     /* bool */
	OPTION_INT,      /* int64_t; min..max */
	OPTION_LIST,     /* struct strings; each one of choices, if there are any */
	OPTION_TABLES,   /* struct strings; each a pattern over schema.table (base/glob.h) */
	OPTION_PAIRS,    /* struct strings; each NAME=VALUE; a mapping in YAML */
};

#define OPTION_SECRET 1    /* may hold a secret: masked where it is shown */
#define OPTION_RELOAD 2    /* may change while running */
#define OPTION_FLAG_ONLY 4 /* neither in the file nor in the environment */
#define OPTION_MANUAL 8    /* too special for --help */
#define OPTION_ARGUMENT 16 /* on the command line the verb's argument, without a flag */

#define OPTION_NOWHERE SIZE_MAX

struct option {
	const char *name;
	char letter; /* 0: none */
	enum option_type type;
	unsigned flags;
	size_t at;         /* offset in struct settings; nothing for an OUTPUT */
	size_t output_at;  /* offset in struct output_settings; OPTION_NOWHERE: not per output */
	const char *verbs; /* as words; NULL: all */
	const char *arg;   /* what the value is called; for ENUM and LIST the choices, "a|b" */
	const char *def;   /* as text; NULL: unset */
	int64_t min, max;
	const char *help;    /* one line */
	const char *more;    /* further sentences for the manual, or NULL */
	const char *heading; /* this row begins a group of that name */
};

extern const struct option options[];
extern const size_t options_count;

/* The row of this name; words in the name are separated by `sep` ('-', '_' or, for
 * either, 0). */
const struct option *options_find(struct str name, char sep);

/* The same for a name that may be that of a bool with no- before it. */
const struct option *options_find_bool(struct str name, char sep, bool *negated);

/* The row that was probably meant by a name that is none, among a verb's (NULL: all), or NULL. */
const struct option *options_suggest(struct str name, const char *verb);

bool option_of_verb(const struct option *o, const char *verb);

/* The one that is a verb's nth argument, from 0, or NULL. */
const struct option *options_argument(const char *verb, size_t n);

/* Whether this is an option of single outputs. */
static inline bool option_of_output(const struct option *o)
{
	return o->output_at != OPTION_NOWHERE;
}

/* Sets the field from text; a list is split at commas outside of double quotes. What is kept is
 * copied into the arena. CONFIG with what is wrong and what would be right, without the name. Not
 * for OUTPUT. */
int option_set(const struct option *o, void *field, struct arena *arena, struct str text,
	       struct err *err) MUST_CHECK;

/* Sets a field of list type from its items, which are in the arena already. */
int option_set_list(const struct option *o, void *field, struct arena *arena, struct strings items,
		    struct err *err) MUST_CHECK;

bool option_is_list(const struct option *o);

/* Copies a field to another of the same option. */
void option_copy(const struct option *o, void *to, const void *from);

bool option_equal(const struct option *o, const void *a, const void *b);

/* Whether the field holds nothing: NULL or an empty list. */
bool option_unset(const struct option *o, const void *field);

#endif
