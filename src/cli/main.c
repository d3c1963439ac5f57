#include "base/log.h"
#include "cli/cli.h"

#include <stdlib.h>

void cli_log_setup(const struct settings *s)
{
	static const char *const levels[] = { "debug", "info", "warn", "error" };
	enum log_level level = LOG_INFO;

	for (enum log_level i = LOG_DEBUG; i <= LOG_ERROR; i++)
		if (strcmp(s->log_level, levels[i]) == 0)
			level = i;
	log_setup(strcmp(s->log_format, "json") == 0 ? LOG_JSON : LOG_LOGFMT, level);
}

int main(int argc, char **argv)
{
	struct command command = { argc > 1 ? argv[1] : "", argc - 2, argv + 2 };
	struct settings *s = mem_alloc(sizeof(*s));
	struct err err = { 0 };

	if (cli_settings(&command, s, &err)) {
		fprintf(stderr, "pgherald: %s\n", err.msg);
		return err_exit_code(err.kind);
	}
	cli_log_setup(s);
	return stream_run(&command, s);
}
