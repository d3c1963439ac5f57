/* What the verbs share. */
#ifndef PGHERALD_CLI_H
#define PGHERALD_CLI_H

#include "cli/verbs.h"
#include "store/store.h"

#include <stdlib.h>

/* How the program was called: a verb with its arguments, from which settings can be read again. */
struct command {
	const char *program; /* argv[0] */
	const char *verb;
	int argc;
	char **argv;
};

static inline int cli_settings(const struct command *c, struct settings *s, struct err *err)
{
	return settings_load(s, c->verb, c->argc, c->argv, err);
}

/* The event store that the settings name; the caller ends it with store_release, failed or not. */
static inline int cli_store(struct store *store, const struct settings *s, struct err *err)
{
	int failed = store_init(store, s->connection, err);

	store->schema = s->schema;
	store->stream_id_type = s->stream_id_type;
	return failed;
}

/* NULL is nothing. */
static inline void cli_free(struct settings *s)
{
	if (s)
		settings_release(s);
	free(s);
}

#endif
