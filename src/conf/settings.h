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

/* A list of strings, as given by "a,b" or a YAML sequence. */
struct strings {
	const char **v;
	size_t n;
};

struct output_settings {
	const char *to;     /* URL */
	const char *format; /* NULL: native, or pretty on a terminal */
	struct strings tables;  /* empty: those of the stream */
	struct strings actions; /* likewise */
	const char *numeric, *int8, *bytea, *timestamps;
	const char *variant;
	bool recorded_at, transactions;
	struct strings tags; /* "name=value" */
	const char *decimal_mode, *time_precision, *interval_mode, *binary_mode, *hstore_mode;
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
	struct output_settings *outputs; /* never empty after settings_load: stdout: by default */
	size_t noutputs;
	const char *file; /* the YAML file these came from, or NULL */
};

#endif
