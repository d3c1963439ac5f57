/* pgherald read: events of the store as JSON lines. */
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "store/postgres.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

#define PAGE 1000
#define LONGEST_SLEEP 100 /* ms */

/* Columns of either query, in the order of the keys. */
#define COLUMNS "position, category, stream, version, id, type, topic, time, data, metadata"

enum { POSITION, CATEGORY, STREAM, VERSION, ID, TYPE, TOPIC, TIME, DATA, METADATA, N_COLUMNS };

static const char *const feed_query =
	"SELECT " COLUMNS " FROM herald.read($1::bigint, $2::int,"
	" string_to_array($3, ','), string_to_array($4, ','), string_to_array($5, ','))";

static const char *const stream_query =
	"SELECT " COLUMNS " FROM herald.read_stream($3, $4, $1::bigint, max_count => $2::int)";

struct reader {
	PGconn *sql;
	const struct settings *settings;
	int64_t next; /* position behind which, or version with which the next page begins */
	int64_t left; /* events that may still be printed */
	struct strbuf out;
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = number;
}

/* 2026-11-21 08:00:31.5+00 is 2026-11-21T08:00:31.5Z. */
static void put_time(struct strbuf *b, const char *text)
{
	size_t n = strlen(text);

	if (n < 14 || text[10] != ' ' || strcmp(text + n - 3, "+00") != 0) {
		json_string(b, str_c(text));
		return;
	}
	strbuf_printf(b, "\"%.10sT%.*sZ\"", text, (int)(n - 14), text + 11);
}

static void put_value(struct strbuf *b, PGresult *res, int row, int column)
{
	const char *value = PQgetvalue(res, row, column);

	if (PQgetisnull(res, row, column))
		strbuf_lit(b, "null");
	else if (column == TIME)
		put_time(b, value);
	else if (column == POSITION || column == VERSION || column == DATA || column == METADATA)
		strbuf_str(b, str_c(value));
	else
		json_string(b, str_c(value));
}

static void put_event(struct strbuf *b, PGresult *res, int row)
{
	for (int i = 0; i < N_COLUMNS; i++) {
		strbuf_printf(b, "%c\"%s\":", i ? ',' : '{', PQfname(res, i));
		put_value(b, res, row, i);
	}
	strbuf_lit(b, "}\n");
}

static PGresult *ask(struct reader *r, struct err *err)
{
	const struct settings *s = r->settings;
	struct store_place place = { s->schema, NULL };
	char next[24], most[24];
	const char *feed[] = { next, most, s->category, s->topics, s->types };
	const char *stream[] = { next, most, s->category, s->stream_id };

	snprintf(next, sizeof(next), "%lld", (long long)r->next);
	snprintf(most, sizeof(most), "%lld", (long long)(r->left < PAGE ? r->left : PAGE));
	if (s->stream_id)
		return store_query(r->sql, place, err, stream_query, 4, stream);
	return store_query(r->sql, place, err, feed_query, 5, feed);
}

/* Prints the next page; *n is the number of its events. */
static int read_page(struct reader *r, int *n, struct err *err)
{
	PGresult *res = ask(r, err);
	bool one = r->settings->stream_id != NULL;

	if (!res)
		return -1;
	r->out.n = 0;
	*n = PQntuples(res);
	for (int row = 0; row < *n; row++)
		put_event(&r->out, res, row);
	if (*n)
		r->next = strtoll(PQgetvalue(res, *n - 1, one ? VERSION : POSITION), NULL, 10) + one;
	r->left -= *n;
	PQclear(res);
	if (fwrite(r->out.p, 1, r->out.n, stdout) != r->out.n || fflush(stdout))
		return err_set(err, ERR_FAIL, "cannot write: %s", strerror(errno));
	return 0;
}

static int read_all(struct reader *r, struct err *err)
{
	int sleep = 1, n;

	while (!stopped && r->left) {
		if (read_page(r, &n, err))
			return -1;
		if (n)
			sleep = 1;
		if (n == PAGE)
			continue;
		if (!r->settings->follow)
			return 0;
		poll(NULL, 0, sleep);
		sleep = 2 * sleep < LONGEST_SLEEP ? 2 * sleep : LONGEST_SLEEP;
	}
	return 0;
}

int read_run(const struct command *command, struct settings *s)
{
	struct reader r = { .settings = s, .next = s->after, .left = s->limit ? s->limit : INT64_MAX };
	struct sigaction action = { .sa_handler = stop };
	struct err err = { 0 };
	int failed;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (s->stream_id && (!s->category || s->types || s->topics))
		failed = err_set(&err, ERR_USAGE,
				 "a stream is read by --category and --stream-id alone");
	else
		failed = !(r.sql = conn_open(s->connection, CONN_SQL, &err)) || read_all(&r, &err);
	if (failed)
		log_error("%s", err.msg);
	PQfinish(r.sql);
	strbuf_release(&r.out);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
