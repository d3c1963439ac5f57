/* The event store in PostgreSQL: thin calls of its SQL functions. */
#include "store/postgres.h"
#include "base/time.h"
#include "pg/dial.h"
#include "store/migrations.h"
#include "store/postgres_lists.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* The key of the advisory lock that one who installs holds: "pgherald". */
#define INSTALL_LOCK "8099001168806961252"

static void postgres_close(struct store *s)
{
	PQfinish(postgres_conn(s));
	free(s->state);
}

static bool postgres_broken(struct store *s)
{
	return ((struct postgres *)s->state)->silent || PQstatus(postgres_conn(s)) != CONNECTION_OK;
}

static void *postgres_handle(struct store *s)
{
	return postgres_conn(s);
}

/* ---- opening ---- */

static int run(struct store *s, const char *sql, struct err *err)
{
	int64_t ignored;

	return postgres_call(s, err, &ignored, sql, "");
}

/* Takes over a connection that was opened. */
static int begin_with(struct store *s, PGconn *conn, struct err *err)
{
	struct postgres *p;
	int64_t pid;

	PQsetErrorContextVisibility(conn, PQSHOW_CONTEXT_NEVER); /* only where in our SQL it was */
	s->state = p = mem_alloc(sizeof(*p));
	p->conn = conn;
	if (s->stop)
		conn_stop_by(conn, s->stop);
	if (run(s, "RESET search_path", err) || /* handlers work on it, with names of their own */
	    postgres_call(s, err, &pid, "SELECT pg_backend_pid()", ""))
		return -1;
	p->direct = pid == PQbackendPID(conn);
	if (PQserverVersion(conn) < 130000)
		return err_set(err, ERR_CONFIG, "the event store needs PostgreSQL 13 or later");
	return 0;
}

static int postgres_open(struct store *s, struct err *err)
{
	PGconn *conn;

	if (migrations_check_schema(s->schema, err))
		return -1;
	conn = conn_open(s->url, CONN_SQL, err);
	return conn ? begin_with(s, conn, err) : -1;
}

static int postgres_dial(struct store *s, int wake, struct err *err)
{
	PGconn *conn;
	int there;

	if (migrations_check_schema(s->schema, err))
		return -1;
	if (!s->dial)
		s->dial = dial_start_sql(s->url, wake, err);
	there = s->dial ? dial_take(&s->dial, &conn, NULL, err) : -1;
	return there > 0 && begin_with(s, conn, err) ? -1 : there;
}

static void postgres_hang_up(struct store *s)
{
	dial_leave(s->dial);
	s->dial = NULL;
}

/* ---- making it ---- */

/* The number of the last migration that the store has; 0 where there is none. */
static int read_version(struct store *s, int64_t *version, struct err *err)
{
	if (postgres_call(s, err, version, "SELECT to_regclass('herald.migration') IS NOT NULL", ""))
		return -1;
	return *version ? postgres_call(s, err, version, "SELECT max(number) FROM herald.migration",
					"")
			: 0;
}

static int apply(struct store *s, const struct migration *m, struct err *err)
{
	struct strbuf b = { 0 };
	struct err other;
	int failed;

	/* As one text it is one transaction. */
	strbuf_printf(&b, "SET LOCAL pgherald.stream_id_type = '%s';\n", s->stream_id_type);
	strbuf_str(&b, str_c(m->sql));
	failed = run(s, "BEGIN", err) || run(s, strbuf_cstr(&b), err) || run(s, "COMMIT", err);
	strbuf_release(&b);
	if (!failed)
		return 0;
	if (PQtransactionStatus(postgres_conn(s)) != PQTRANS_IDLE && run(s, "ROLLBACK", &other))
		err_add(err, "the connection was lost");
	return err_add(err, "migration %03d-%s", m->number, m->name);
}

static int apply_missing(struct store *s, int *applied, struct err *err)
{
	int64_t version;

	if (read_version(s, &version, err))
		return -1;
	if (version > migrations_last())
		return err_set(err, ERR_CONFIG,
			       "the store in schema %s has version %d and this program knows %d: "
			       "use a newer pgherald",
			       s->schema, (int)version, migrations_last());
	for (const struct migration *m = migrations; m->number; m++) {
		if (m->number <= version)
			continue;
		if (apply(s, m, err))
			return -1;
		++*applied;
	}
	return 0;
}

/* Several may do it at once: one does the work, the others wait for it. */
static int postgres_init(struct store *s, int *applied, int *version, struct err *err)
{
	struct err ignored;
	int failed;

	*applied = 0;
	*version = migrations_last();
	if (run(s, "SELECT pg_advisory_lock(" INSTALL_LOCK ")", err))
		return -1;
	failed = apply_missing(s, applied, err);
	if (run(s, "SELECT pg_advisory_unlock(" INSTALL_LOCK ")", &ignored))
		return failed; /* the lock goes with the connection */
	return failed;
}

static int postgres_identify(struct store *s, struct store_identity *is, struct err *err)
{
	PGresult *res = postgres_ask(s, err,
				     "SELECT system_identifier,"
				     " coalesce(pg_sequence_last_value('herald.feed_position'), 0)"
				     " FROM pg_control_system()",
				     "");

	if (!res)
		return -1;
	is->id = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
	is->last = postgres_integer(res, 0, 1);
	is->server_version = (uint32_t)PQserverVersion(postgres_conn(s));
	snprintf(is->name, sizeof(is->name), "%s", PQdb(postgres_conn(s)));
	PQclear(res);
	return 0;
}

static int postgres_list(struct store *s, enum store_list what, const char *name, store_row_fn *fn,
			 void *user, struct err *err)
{
	char last[16];
	const char *names[16], *values[16];
	PGresult *res;
	int n;

	snprintf(last, sizeof(last), "%d", migrations_last());
	res = postgres_ask(s, err, postgres_lists[what],
			   what == STORE_CHECK || what == STORE_PARKED_LIST ? "s" : "",
			   what == STORE_CHECK ? last : name);
	if (!res)
		return -1;
	n = PQnfields(res);
	for (int row = 0, end = 0; row < PQntuples(res) && !end; row++) {
		for (int i = 0; i < n; i++) {
			names[i] = PQfname(res, i);
			values[i] = PQgetisnull(res, row, i) ? NULL : PQgetvalue(res, row, i);
		}
		end = fn(user, n, names, values);
	}
	PQclear(res);
	return 0;
}

/* ---- transactions ---- */

static int postgres_begin(struct store *s, struct err *err)
{
	return run(s, "BEGIN ISOLATION LEVEL READ COMMITTED", err);
}

static int postgres_commit(struct store *s, struct err *err)
{
	/* COMMIT of a transaction that has failed is a rollback, and no error. */
	if (PQtransactionStatus(postgres_conn(s)) == PQTRANS_INERROR)
		return err_set(err, ERR_FAIL,
			       "the transaction has failed and can only be rolled back");
	return run(s, "COMMIT", err);
}

static int postgres_rollback(struct store *s, struct err *err)
{
	if (PQtransactionStatus(postgres_conn(s)) == PQTRANS_IDLE)
		return 0;
	return run(s, "ROLLBACK", err);
}

/* ---- events ---- */

static int postgres_append(struct store *s, const char *category, const char *stream,
			   const char *events, int64_t expected, struct store_appended *done,
			   struct err *err)
{
	char number[24];
	PGresult *res;

	snprintf(number, sizeof(number), "%" PRId64, expected);
	res = postgres_ask(s, err,
			   "SELECT first_version, last_version, duplicate"
			   " FROM herald.append($1, $2, $3::jsonb, $4::bigint)",
			   "ssss", category, stream, events, expected == STORE_ANY ? NULL : number);
	if (!res)
		return -1;
	done->first = PQgetisnull(res, 0, 0) ? -1 : postgres_integer(res, 0, 0);
	done->last = postgres_integer(res, 0, 1);
	done->duplicate = *PQgetvalue(res, 0, 2) == 't';
	PQclear(res);
	return 0;
}

static int postgres_append_many(struct store *s, const char *events, const char *category,
				const char *stream, struct store_counts *done, struct err *err)
{
	PGresult *res = postgres_ask(s, err,
				     "SELECT appended, duplicates"
				     " FROM herald.append_many($1::jsonb, $2::text, $3::text)",
				     "sss", events, category, stream);

	if (!res)
		return -1;
	done->appended = postgres_integer(res, 0, 0);
	done->duplicates = postgres_integer(res, 0, 1);
	PQclear(res);
	return 0;
}

/* What POSTGRES_COLUMNS names. */
enum { POSITION, VERSION, TIME, CATEGORY, STREAM, ID, TYPE, TOPIC, DATA, METADATA };

static const char *text(const PGresult *res, int row, int column)
{
	return PQgetisnull(res, row, column) ? NULL : PQgetvalue(res, row, column);
}

static int add_event(struct store_page *page, const PGresult *res, int row, struct err *err)
{
	struct store_event *e = store_page_add(page);

	if (!time_parse_timestamp(str_c(PQgetvalue(res, row, TIME)), &e->time))
		return err_set(err, ERR_FAIL,
			       "\"%s\" is not a time as sessions with DateStyle ISO write them",
			       PQgetvalue(res, row, TIME));
	e->position = postgres_integer(res, row, POSITION);
	e->version = postgres_integer(res, row, VERSION);
	e->category = text(res, row, CATEGORY);
	e->stream = text(res, row, STREAM);
	e->id = text(res, row, ID);
	e->type = text(res, row, TYPE);
	e->topic = text(res, row, TOPIC);
	e->data = text(res, row, DATA);
	e->metadata = text(res, row, METADATA);
	return 0;
}

static void clear_result(void *result)
{
	PQclear(result);
}

int postgres_fill(struct store_page *page, PGresult *res, struct err *err)
{
	store_page_clear(page);
	if (!res)
		return -1;
	page->result = res;
	page->clear = clear_result;
	for (int row = 0; row < PQntuples(res); row++)
		if (add_event(page, res, row, err))
			return -1;
	return 0;
}

static int postgres_read(struct store *s, const struct store_query *q, struct store_page *page,
			 struct err *err)
{
	if (!q->stream)
		return postgres_fill(
			page,
			postgres_ask(s, err,
				     "SELECT " POSTGRES_COLUMNS
				     " FROM herald.read($1::bigint, $2::int,"
				     " string_to_array($3, ','), string_to_array($4, ','),"
				     " string_to_array($5, ','))",
				     "iisss", q->from, (int64_t)q->max, q->categories, q->topics,
				     q->types),
			err);
	return postgres_fill(page,
			     postgres_ask(s, err,
					  "SELECT " POSTGRES_COLUMNS
					  " FROM herald.read_stream($1, $2, $3::bigint,"
					  " nullif($4::bigint, -1), $5::int, $6::bool)",
					  "ssiiis", q->category, q->stream, q->from, q->to,
					  (int64_t)q->max, q->backward ? "t" : "f"),
			     err);
}

static int postgres_end(struct store *s, int64_t *position, struct err *err)
{
	return postgres_call(s, err, position, "SELECT herald.horizon()", "");
}

static int postgres_load(struct store *s, const char *category, const char *stream,
			 struct store_page *page, int64_t *version, struct err *err)
{
	/* The stream's version is as of the snapshot before that in which its events are read, so
	 * it is never that of an event which is not among them, unless that one is gone. */
	PGresult *res = postgres_ask(
		s, err,
		"SELECT 0, l.version, l.time, $1::text, $2::text, l.id, l.type, NULL, l.data,"
		" l.metadata, v.version"
		" FROM (SELECT herald.stream_version($1, $2) AS version) v"
		" LEFT JOIN herald.load($1, $2) l ON true",
		"ss", category, stream);

	if (!res)
		return -1;
	*version = postgres_integer(res, 0, METADATA + 1);
	if (!PQgetisnull(res, 0, VERSION))
		return postgres_fill(page, res, err);
	store_page_clear(page);
	PQclear(res);
	return 0;
}

static int postgres_snapshot(struct store *s, const char *category, const char *stream,
			     int64_t version, const char *state, struct err *err)
{
	int64_t stored;

	if (postgres_call(s, err, &stored, "SELECT herald.snapshot_put($1, $2, $3::bigint, $4::jsonb)",
			  "ssis", category, stream, version, state))
		return -1;
	return stored != 0;
}

/* ---- waking ---- */

static int postgres_listen(struct store *s, int *socket, struct err *err)
{
	*socket = PQsocket(postgres_conn(s));
	return run(s, "LISTEN herald", err);
}

static int postgres_sleep(struct store *s, const char *name, int64_t *ms, struct err *err)
{
	return postgres_call(s, err, ms, "SELECT coalesce(herald.sleep($1, $2::int), $2::int)",
			     "si", name, *ms);
}

/* What a notification says does not matter, nor who sent it. */
static bool postgres_drain(struct store *s)
{
	bool any = !PQconsumeInput(postgres_conn(s)); /* the next call says why */
	PGnotify *n;

	while ((n = PQnotifies(postgres_conn(s))) != NULL) {
		any = true;
		PQfreemem(n);
	}
	return any;
}

/* ---- events that go ---- */

static int postgres_retain(struct store *s, const char *category, int64_t max_age_s,
			   int64_t max_count, struct err *err)
{
	int64_t ignored;

	return postgres_call(s, err, &ignored,
			     "SELECT herald.retain($1, nullif($2::bigint, 0) * interval '1 second',"
			     " nullif($3::bigint, 0))",
			     "sii", category, max_age_s, max_count);
}

static int postgres_purge(struct store *s, int max, bool force, int64_t *removed, struct err *err)
{
	return postgres_call(s, err, removed, "SELECT herald.purge($1::int, $2::bool)", "is",
			     (int64_t)max, force ? "t" : "f");
}

static int postgres_truncate(struct store *s, const char *category, const char *stream,
			     int64_t before, int64_t *removed, struct err *err)
{
	return postgres_call(s, err, removed, "SELECT herald.truncate($1, $2, $3::bigint)", "ssi",
			     category, stream, before);
}

static int postgres_remove(struct store *s, const char *category, const char *stream,
			   int64_t *removed, struct err *err)
{
	return postgres_call(s, err, removed, "SELECT herald.delete($1, $2)", "ss", category, stream);
}

static int postgres_redact(struct store *s, int64_t position, const char *data, struct err *err)
{
	int64_t done;

	if (postgres_call(s, err, &done, "SELECT herald.redact($1::bigint, $2::jsonb)", "is",
			  position, data))
		return -1;
	return done != 0;
}

const struct store_backend store_postgres = {
	.open = postgres_open,
	.dial = postgres_dial,
	.hang_up = postgres_hang_up,
	.close = postgres_close,
	.broken = postgres_broken,
	.handle = postgres_handle,
	.init = postgres_init,
	.identify = postgres_identify,
	.list = postgres_list,
	.begin = postgres_begin,
	.commit = postgres_commit,
	.rollback = postgres_rollback,
	.append = postgres_append,
	.append_many = postgres_append_many,
	.read = postgres_read,
	.end = postgres_end,
	.load = postgres_load,
	.snapshot = postgres_snapshot,
	.subscribe = postgres_subscription_make,
	.unsubscribe = postgres_subscription_drop,
	.claim = postgres_subscription_claim,
	.fetch = postgres_subscription_fetch,
	.ack = postgres_subscription_ack,
	.renew = postgres_subscription_renew,
	.release = postgres_subscription_release,
	.fail = postgres_subscription_fail,
	.resume = postgres_subscription_resume,
	.parked_next = postgres_subscription_parked_next,
	.parked_done = postgres_subscription_parked_done,
	.listen = postgres_listen,
	.sleep = postgres_sleep,
	.drain = postgres_drain,
	.retain = postgres_retain,
	.purge = postgres_purge,
	.truncate = postgres_truncate,
	.remove = postgres_remove,
	.redact = postgres_redact,
};
