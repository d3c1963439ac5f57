/* The table of verbs: dispatch and help come from its rows. One file each. */
#ifndef PGHERALD_VERBS_H
#define PGHERALD_VERBS_H

#include "conf/settings.h"

struct command; /* how the program was called */

struct verb {
	const char *name;
	const char *help;    /* one line */
	const char *example; /* begins the verb's --help */
	const char *text;    /* a few lines, each with its newline */
	/* The settings were allocated for this verb, which owns them. Returns the exit code. */
	int (*run)(const struct command *command, struct settings *settings);
};

/* Ends with a row without a name. */
extern const struct verb verbs[];

const struct verb *verbs_find(const char *name); /* NULL: unknown */

int stream_run(const struct command *command, struct settings *settings);
int check_run(const struct command *command, struct settings *settings);
int status_run(const struct command *command, struct settings *settings);
int drop_run(const struct command *command, struct settings *settings);
int replay_run(const struct command *command, struct settings *settings);
int consume_run(const struct command *command, struct settings *settings);
int store_run(const struct command *command, struct settings *settings);
int append_run(const struct command *command, struct settings *settings);
int read_run(const struct command *command, struct settings *settings);
int subscribe_run(const struct command *command, struct settings *settings);
int load_run(const struct command *command, struct settings *settings);
int parked_run(const struct command *command, struct settings *settings);
int retain_run(const struct command *command, struct settings *settings);
int purge_run(const struct command *command, struct settings *settings);
int demo_run(const struct command *command, struct settings *settings);

#endif
