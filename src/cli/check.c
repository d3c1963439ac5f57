/* pgherald check: whether streaming can start, and what to do where it cannot. */
#include "base/json.h"
#include "cli/cli.h"
#include "pg/preflight.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct doctor {
	bool json, colour, failed;
	int n;
};

static const struct {
	const char *name;
	const char *colour;
} levels[] = {
	[PREFLIGHT_OK] = { "ok", "\033[32m" },
	[PREFLIGHT_INFO] = { "info", "\033[36m" },
	[PREFLIGHT_WARN] = { "warn", "\033[33m" },
	[PREFLIGHT_FAIL] = { "FAIL", "\033[31m" },
};

static void show_json(const struct doctor *d, const struct preflight_finding *f)
{
	static const char *const names[] = { "ok", "info", "warn", "fail" };
	struct strbuf b = { 0 };

	strbuf_printf(&b, "%s{\"check\":\"%s\",\"level\":\"%s\",\"text\":", d->n ? ",\n " : "[",
		      f->check, names[f->level]);
	json_string_checked(&b, str_c(f->text));
	if (*f->mend) {
		strbuf_lit(&b, ",\"mend\":");
		json_string_checked(&b, str_c(f->mend));
	}
	strbuf_ch(&b, '}');
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
}

static void show(void *user, const struct preflight_finding *f)
{
	struct doctor *d = user;

	d->failed |= f->level == PREFLIGHT_FAIL;
	if (d->json) {
		show_json(d, f);
	} else {
		printf("%s%-4s%s  %-11s  %s\n", d->colour ? levels[f->level].colour : "",
		       levels[f->level].name, d->colour ? "\033[0m" : "", f->check, f->text);
		if (*f->mend)
			printf("%19smend: %s\n", "", f->mend);
	}
	d->n++;
}

int check_run(const struct command *command, struct settings *s)
{
	struct doctor d = { .json = s->json, .colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR") };
	struct err err = { 0 };
	int failed = preflight_run(s->connection, s->slot, s->publication, show, &d, &err);

	if (d.json)
		printf("%s]\n", d.n ? "" : "[");
	if (failed)
		fprintf(stderr, "pgherald: %s\n", err.msg);
	else if (!d.json)
		printf("\n%s\n", d.failed ? "Streaming cannot start." : "Streaming can start.");
	cli_free(s);
	if (failed)
		return err_exit_code(err.kind);
	return d.failed ? 1 : 0;
}
