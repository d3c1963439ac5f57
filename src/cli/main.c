#include "base/left.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/help.h"
#include "cli/title.h"

#include <stdio.h>
#include <unistd.h>

static int usage(const char *what, const char *name)
{
	fprintf(stderr, "pgherald: %s%s; see pgherald --help\n", what, name);
	return err_exit_code(ERR_USAGE);
}

static int run(const struct verb *verb, const struct command *command)
{
	struct settings *s = mem_alloc(sizeof(*s));
	struct err err = { 0 };

	if (cli_settings(command, s, &err)) {
		fprintf(stderr, "pgherald: %s\n", err.msg);
		free(s);
		return err_exit_code(err.kind);
	}
	if (s->help || s->print_config) {
		if (s->help)
			help_verb(stdout, verb);
		else
			settings_print(s, stdout);
		cli_free(s);
		return 0;
	}
	log_setup_names(s->log_format, s->log_level);
	return verb->run(command, s);
}

int main(int argc, char **argv)
{
	char **args = title_hide(argc, argv);
	struct command command = { args[0], argc > 1 ? args[1] : NULL, argc - 2, args + 2 };
	const struct verb *verb;
	int code;

	if (!command.verb) {
		help_program(stderr);
		return err_exit_code(ERR_USAGE);
	}
	if (strcmp(command.verb, "--help") == 0 || strcmp(command.verb, "-h") == 0) {
		help_program(stdout);
		return 0;
	}
	if (strcmp(command.verb, "--version") == 0 || strcmp(command.verb, "-V") == 0) {
		printf("pgherald " PGHERALD_VERSION "\n");
		help_drivers(stdout, "Outputs:", "");
		return 0;
	}
	verb = verbs_find(command.verb);
	code = verb ? run(verb, &command) : usage("there is no verb ", command.verb);
	if (left_any()) {
		fflush(NULL);
		_exit(code);
	}
	return code;
}
