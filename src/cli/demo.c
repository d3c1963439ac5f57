/* pgherald demo: hands over to the script that is installed beside, or stands in the source tree. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* The folder of the running program, with its slash. */
static int own_folder(char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size - 1);
	char *slash;

	if (n <= 0)
		return -1;
	path[n] = '\0';
	slash = strrchr(path, '/');
	if (!slash)
		return -1;
	slash[1] = '\0';
	return 0;
}

int demo_run(const struct command *command, struct settings *s)
{
	static const char *const places[] = { "../libexec/pgherald/demo",
					      "../script/pgherald-demo" };
	char folder[4096], script[4200], program[4200], seconds[24];

	if (own_folder(folder, sizeof(folder)))
		return err_exit_code(ERR_FAIL);
	snprintf(program, sizeof(program), "%spgherald", folder);
	snprintf(seconds, sizeof(seconds), "%lld", (long long)s->seconds);
	setenv("PGHERALD", program, 1);
	for (size_t i = 0; i < 2; i++) {
		snprintf(script, sizeof(script), "%s%s", folder, places[i]);
		if (s->seconds)
			execl(script, script, "--seconds", seconds, NULL);
		else
			execl(script, script, NULL);
	}
	fprintf(stderr, "pgherald: cannot run the demo's script %s: %s\n", script, strerror(errno));
	cli_free(s);
	return err_exit_code(ERR_FAIL);
}
