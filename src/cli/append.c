/* pgherald append: JSON lines from standard input into the event store. */
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>

/* A batch is one transaction: lines, or bytes, whatever comes first. */
#define MOST_LINES 1000
#define MOST_BYTES (4 << 20)

struct append {
	struct store store;
	const struct settings *settings;
	struct strbuf batch;   /* "[line,line" */
	uint64_t first, lines; /* the batch's first line; those read so far */
	int64_t appended, duplicates;
};

static int send_batch(struct append *a, struct err *err)
{
	struct store_counts done;
	int failed;

	if (a->batch.n == 0)
		return 0;
	strbuf_ch(&a->batch, ']');
	failed = store_call(&a->store, err, append_many, strbuf_cstr(&a->batch),
			    a->settings->category, a->settings->stream_id, &done);
	a->batch.n = 0;
	if (failed && a->first == a->lines)
		return err_add(err, "line %llu was not appended", (unsigned long long)a->first);
	if (failed)
		return err_add(err, "lines %llu to %llu were not appended",
			       (unsigned long long)a->first, (unsigned long long)a->lines);
	a->appended += done.appended;
	a->duplicates += done.duplicates;
	return 0;
}

static int add_line(struct append *a, struct str line, struct err *err)
{
	a->lines++;
	if (!json_valid(line))
		return err_set(err, ERR_CONFIG, "line %llu is no JSON", (unsigned long long)a->lines);
	if (a->batch.n == 0)
		a->first = a->lines;
	strbuf_ch(&a->batch, a->batch.n ? ',' : '[');
	strbuf_str(&a->batch, line);
	if (a->lines - a->first + 1 < MOST_LINES && a->batch.n < MOST_BYTES)
		return 0;
	return send_batch(a, err);
}

static bool is_blank(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!strchr(" \t\r\n", s.p[i]))
			return false;
	return true;
}

static int append_lines(struct append *a, FILE *f, struct err *err)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int failed = 0;

	while (!failed && (n = getline(&line, &cap, f)) > 0) {
		struct str text = { line, (size_t)n };

		if (!is_blank(text))
			failed = add_line(a, text, err);
		else
			a->lines++;
	}
	free(line);
	if (!failed && ferror(f))
		failed = err_set(err, ERR_FAIL, "cannot read: %s", strerror(errno));
	return failed ? failed : send_batch(a, err);
}

int append_run(const struct command *command, struct settings *settings)
{
	struct append a = { .settings = settings };
	struct err err = { 0 };
	int failed;

	failed = cli_store(&a.store, settings, &err) || append_lines(&a, stdin, &err);
	if (failed)
		log_error("%s", err.msg);
	if (!failed || a.appended || a.duplicates)
		log_info("%lld events appended, %lld were there already", (long long)a.appended,
			 (long long)a.duplicates);
	store_release(&a.store);
	strbuf_release(&a.batch);
	cli_free(settings);
	return failed ? err_exit_code(err.kind) : 0;
}
