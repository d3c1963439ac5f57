/* What the verbs share. */
#ifndef PGHERALD_CLI_H
#define PGHERALD_CLI_H

#include "cli/verbs.h"

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

/* NULL is nothing. */
static inline void cli_free(struct settings *s)
{
	if (s)
		settings_release(s);
	free(s);
}

#endif
