/* What the verbs share. */
#ifndef PGHERALD_CLI_H
#define PGHERALD_CLI_H

#include "conf/settings.h"

/* A verb with its arguments, from which settings can be read again. */
struct command {
	const char *verb;
	int argc;
	char **argv;
};

static inline int cli_settings(const struct command *c, struct settings *s, struct err *err)
{
	return settings_load(s, c->verb, c->argc, c->argv, err);
}

int stream_run(const struct command *command, struct settings *settings);

#endif
