/* pgherald check: whether streaming can start, and what to do where it cannot. */
#include "base/json.h"
#include "cli/cli.h"
#include "pg/preflight.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Of a finding's mend as many lines are shown; JSON has them all. */
#define MEND_LINES 5

struct doctor {
	bool json, colour, failed;
	int n;
};

static const struct {
	const char *name;
	const char *shown;
	const char *colour;
} levels[] = {
	[PREFLIGHT_OK] = { "ok", "ok", "\033[32m" },
	[PREFLIGHT_INFO] = { "info", "info", "\033[36m" },
	[PREFLIGHT_WARN] = { "warn", "warn", "\033[33m" },
	[PREFLIGHT_FAIL] = { "fail", "FAIL", "\033[31m" },
};

static void show_json(const struct doctor *d, const struct preflight_finding *f)
{
	struct strbuf b = { 0 };

	strbuf_printf(&b, "%s{\"check\":\"%s\",\"level\":\"%s\",\"text\":", d->n ? ",\n " : "[",
		      f->check, levels[f->level].name);
	json_string_checked(&b, str_c(f->text));
	if (*f->mend) {
		strbuf_lit(&b, ",\"mend\":");
		json_string_checked(&b, str_c(f->mend));
	}
	strbuf_ch(&b, '}');
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
}

static void show_mend(const char *mend)
{
	const char *label = "mend:";
	int shown = 0, hidden = 0;

	for (size_t n; *mend; mend += n + (mend[n] == '\n')) {
		n = strcspn(mend, "\n");
		if (shown++ < MEND_LINES)
			printf("%20s%-5s %.*s\n", "", label, (int)n, mend);
		else
			hidden++;
		label = "";
	}
	if (hidden)
		printf("%26sand %d more lines, see --json\n", "", hidden);
}

static void show(void *user, const struct preflight_finding *f)
{
	struct doctor *d = user;

	d->failed |= f->level == PREFLIGHT_FAIL;
	if (d->json) {
		show_json(d, f);
	} else {
		printf("%s%-4s%s  %-12s  %s\n", d->colour ? levels[f->level].colour : "",
		       levels[f->level].shown, d->colour ? "\033[0m" : "", f->check, f->text);
		show_mend(f->mend);
	}
	d->n++;
}

int check_run(const struct command *command, struct settings *s)
{
	const char *no_color = getenv("NO_COLOR");
	struct doctor d = { .json = s->json,
			    .colour = isatty(STDOUT_FILENO) && !(no_color && *no_color) };
	struct preflight_callback cb = { show, &d };
	struct err err = { 0 };
	int failed = preflight_run(s->connection, s->slot, s->publication, &cb, &err);

	if (d.json)
		printf("]\n");
	else
		printf("\n%s\n", d.failed ? "Streaming cannot start." : "Streaming can start.");
	cli_free(s);
	if (failed)
		return err_exit_code(err.kind);
	return d.failed ? err_exit_code(ERR_FAIL) : 0;
}
