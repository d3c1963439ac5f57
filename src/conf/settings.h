/*
 * What the user wants, after flags have overridden the environment and the environment the file.
 * All strings live in the settings' arena. Every field is one row of the option table
 * (conf/options.c), which is the only place that knows names, defaults, ranges and help.
 */
#ifndef PGHERALD_SETTINGS_H
#define PGHERALD_SETTINGS_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/strbuf.h"

#include <stdio.h>

/* A list of strings, as given by "a,b" or a YAML sequence. */
struct strings {
	const char **v;
	size_t n;
};

struct output_settings {
	const char *to;         /* URL, without the parameters that were options */
	const char *format;     /* NULL: native, or pretty on a terminal */
	struct strings tables;  /* empty: all; those of the stream unless the output has its own */
	struct strings actions; /* likewise */
	const char *numeric, *int8, *bytea, *timestamps;
	const char *variant; /* NULL: none */
	bool recorded_at, transactions;
	struct strings tags;        /* "name=value" */
	struct strings key_columns; /* empty: the replica identity's */
	const char *address;        /* template; NULL: the URL's or the destination's own */
	int64_t max_in_flight;      /* messages; 0: the destination's own limit */
	const char *compress;       /* how; NULL or "none": not at all */
	const char *writer; /* what a destination knows this output by; NULL: its URL and filter */
	const char *on_refused;
	const char *dead_letter; /* URL; NULL: none */
	/* NULL: the format's default */
	const char *decimal_mode, *time_precision, *interval_mode, *binary_mode, *hstore_mode;
	const char *cloudevents_mode;
	uint64_t given[2]; /* a bit for each row of the table that was said of this output alone */
};

struct settings {
	struct arena arena;
	const char *connection; /* conninfo; "" is libpq's defaults */
	const char *slot;
	const char *publication;
	const char *name; /* label of the source, NULL: the database */
	bool temporary, create, wait, binary;
	struct strings tables;
	struct strings actions;
	const char *from;  /* NULL, "now" or an LSN */
	const char *until; /* likewise */
	int64_t limit;     /* events, 0: no limit */
	const char *log_format, *log_level;
	struct output_settings output;   /* what holds for outputs that say nothing else */
	struct output_settings *outputs; /* never empty after settings_load: stdout: by default */
	size_t noutputs;
	const char *task; /* of the verb store */
	const char *parked_task, *subscription;
	const char *schema; /* of the event store */
	const char *stream_id_type;
	const char *category, *stream_id, *types, *topics; /* NULL: any */
	int64_t after, before;
	bool follow, backward, force;
	const char *start;           /* beginning, end or a position; NULL: the verb's own */
	const char *on_failure;      /* NULL: as it is, or stop */
	bool parked;                 /* those that are parked, instead of new ones */
	bool drop;                   /* the subscription */
	int64_t partitions;          /* 0: as many as there are, or 1 */
	int64_t attempts;            /* 0: as it is */
	int64_t lease;               /* seconds */
	int64_t max_sleep;           /* ms */
	int64_t position;            /* 0: all */
	const char *max_age, *every; /* times such as 90d; NULL: none */
	int64_t max_count;           /* 0: all */
	const char *letters;         /* file of dead letters, for replay */
	const char *file;            /* the YAML file these came from, or NULL */
	int64_t seconds;             /* 0: until interrupted */
	bool json, yes;
	bool help, print_config; /* asked for on the command line */
	const char *preset;      /* NULL: none */
	/* What the preset's words say of its broker (conf/preset.h) */
	const char *preset_url, *preset_place, *preset_queue;
	const char *url; /* of what `consume` reads */
	const char *keys;
};

/* The defaults, without any output. For settings that are zeroed or released. */
void settings_init(struct settings *s);

/* Reads the settings of a verb: defaults, then the file (-c), the environment (PGHERALD_*) and the
 * arguments behind the verb, each overriding those before. To reload, load again into another
 * struct with the same arguments. USAGE for a wrong argument, CONFIG ("FILE:LINE: key: ...",
 * "PGHERALD_NAME: ...") for the rest; s is released on failure. Where --help was given nothing else
 * is looked at. */
int settings_load(struct settings *s, const char *verb, int argc, char **argv,
		  struct err *err) MUST_CHECK;

/* Sets one option by its name in the table; "to" adds an output. The text is copied. CONFIG when
 * there is no such option or the value is wrong. */
int settings_set(struct settings *s, const char *name, const char *value, struct err *err) MUST_CHECK;

/* Whether every option that differs may change while running; otherwise CONFIG naming it. */
int settings_check_reload(const struct settings *old, const struct settings *new,
			  struct err *err) MUST_CHECK;

/* Writes them as YAML that could be read again, but for secrets, which are shown as "***". */
void settings_print(const struct settings *s, FILE *f);

/* Appends a connection's text or an output's URL with "***" for its secrets. */
void settings_mask(struct strbuf *out, struct str text);

void settings_release(struct settings *s);

#endif
