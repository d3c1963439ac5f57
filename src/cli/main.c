#include "base/log.h"
#include "cli/cli.h"

#include <stdlib.h>

int main(int argc, char **argv)
{
	struct command command = { argc > 1 ? argv[1] : "", argc - 2, argv + 2 };
	struct settings *s = mem_alloc(sizeof(*s));
	struct err err = { 0 };

	if (cli_settings(&command, s, &err)) {
		fprintf(stderr, "pgherald: %s\n", err.msg);
		return err_exit_code(err.kind);
	}
	log_setup_names(s->log_format, s->log_level);
	return stream_run(&command, s);
}
