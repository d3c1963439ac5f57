#include "store/sqlite.h"
#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BUSY_MS 10000
#define MOST_STATEMENTS 96
#define VERSION 1 /* of the tables below */

/* Positions are never used again, nor streams: a row of herald_stream stays as a tombstone. Times
 * are microseconds since 1970, ids 16 bytes. */
static const char schema[] =
	"CREATE TABLE herald_migration (number INTEGER PRIMARY KEY);\n"
	"CREATE TABLE herald_store (id INTEGER NOT NULL);\n"
	"CREATE TABLE herald_stream (number INTEGER PRIMARY KEY AUTOINCREMENT,"
	" category TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL,"
	" deleted INTEGER NOT NULL DEFAULT 0, UNIQUE (category, id));\n"
	"CREATE TABLE herald_event (position INTEGER PRIMARY KEY AUTOINCREMENT,"
	" stream_number INTEGER NOT NULL REFERENCES herald_stream, version INTEGER NOT NULL,"
	" time INTEGER NOT NULL, id BLOB NOT NULL UNIQUE, redacted INTEGER NOT NULL DEFAULT 0,"
	" type TEXT NOT NULL, topic TEXT, data TEXT NOT NULL, metadata TEXT,"
	" UNIQUE (stream_number, version));\n"
	"CREATE TABLE herald_snapshot (stream_number INTEGER PRIMARY KEY REFERENCES herald_stream,"
	" version INTEGER NOT NULL, time INTEGER NOT NULL, state TEXT NOT NULL);\n"
	"CREATE TABLE herald_retention (category TEXT PRIMARY KEY, max_age INTEGER,"
	" max_count INTEGER, aged_position INTEGER NOT NULL DEFAULT 0,"
	" counted_position INTEGER NOT NULL DEFAULT 0);\n"
	/* categories, topics and types are arrays in JSON, or null for all */
	"CREATE TABLE herald_subscription (name TEXT PRIMARY KEY, source TEXT NOT NULL,"
	" categories TEXT, topics TEXT, types TEXT, stream TEXT, partitions INTEGER NOT NULL,"
	" next_partitions INTEGER, barrier INTEGER, on_failure TEXT NOT NULL DEFAULT 'stop',"
	" max_attempts INTEGER NOT NULL DEFAULT 5, backoff INTEGER NOT NULL DEFAULT 1000000);\n"
	"CREATE TABLE herald_checkpoint (subscription TEXT NOT NULL"
	" REFERENCES herald_subscription ON DELETE CASCADE, partition INTEGER NOT NULL,"
	" position INTEGER NOT NULL, token INTEGER NOT NULL DEFAULT 0, owner TEXT, lease INTEGER,"
	" lease_until INTEGER, served INTEGER, failed_position INTEGER,"
	" attempts INTEGER NOT NULL DEFAULT 0, retry_at INTEGER, error TEXT,"
	" stopped INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (subscription, partition));\n"
	"CREATE TABLE herald_parked (subscription TEXT NOT NULL"
	" REFERENCES herald_subscription ON DELETE CASCADE, position INTEGER NOT NULL,"
	" stream_number INTEGER NOT NULL, blocks INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0,"
	" attempts INTEGER NOT NULL DEFAULT 0, error TEXT, parked INTEGER NOT NULL,"
	" PRIMARY KEY (subscription, position));\n"
	"INSERT INTO herald_migration VALUES (1);\n"
	"INSERT INTO herald_store VALUES (random());\n";

struct sqlite {
	sqlite3 *db;
	bool broken;
	int64_t busy_ms; /* since when another writer is waited for */
	size_t n;
	struct {
		const char *sql;
		sqlite3_stmt *statement;
	} kept[MOST_STATEMENTS];
};

/* ---- the connection ---- */

/* Which of SQLite's primary result codes pass by themselves. */
static enum err_kind classify(int code)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_FULL:
	case SQLITE_IOERR:
	case SQLITE_INTERRUPT:
	case SQLITE_PROTOCOL:
		return ERR_RETRY;
	case SQLITE_CONSTRAINT:
	case SQLITE_ERROR:
		return ERR_FAIL;
	default:
		return ERR_CONFIG;
	}
}

static int fail(struct store *s, struct err *err)
{
	struct sqlite *q = s->state;
	int code = sqlite3_extended_errcode(q->db);
	const char *text = sqlite3_errmsg(q->db);

	q->broken = (code & 0xff) == SQLITE_IOERR;
	if ((code & 0xff) == SQLITE_CANTOPEN || strstr(text, "no such table: herald_"))
		return err_set(err, ERR_CONFIG,
			       "there is no event store in %s: run pgherald store init", s->url);
	if (code == SQLITE_CONSTRAINT_UNIQUE && strstr(text, "herald_event.id"))
		return store_refuse(s, STORE_ID_IN_USE, err, "two of the events have one id");
	return err_set(err, classify(code), "%s: %s%s", s->url, text,
		       (code & 0xff) == SQLITE_FULL || (code & 0xff) == SQLITE_IOERR
			       ? "; is its disk full? Nothing of the transaction was written"
			       : "");
}

static int run_text(struct store *s, const char *sql, struct err *err)
{
	struct sqlite *q = s->state;

	return sqlite3_exec(q->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, err);
}

/* SQLite's own way sleeps up to 100 ms, and so misses the moments between two of another's writes. */
static int on_busy(void *user, int calls)
{
	struct sqlite *q = user;

	if (calls == 0)
		q->busy_ms = clock_ms();
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return clock_ms() - q->busy_ms < BUSY_MS;
}

static int open_store(struct store *s, struct err *err)
{
	bool memory = strcmp(s->url, ":memory:") == 0;
	/* All who open this name in the process have the same database. */
	const char *path = memory ? "file:/pgherald?vfs=memdb" : s->url;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
	struct sqlite *q = mem_alloc(sizeof(*q));

	if (memory || s->make)
		flags |= SQLITE_OPEN_CREATE;
	if (memory)
		flags |= SQLITE_OPEN_URI;
	s->state = q;
	if (sqlite3_libversion_number() < 3038000)
		return err_set(err, ERR_CONFIG, "the event store needs SQLite 3.38 or later");
	if (!*s->url)
		return err_set(err, ERR_CONFIG, "it names no file, as sqlite:PATH does");
	if (sqlite3_open_v2(path, &q->db, flags, NULL) && !q->db)
		mem_die();
	if (sqlite3_errcode(q->db))
		return fail(s, err);
	sqlite3_extended_result_codes(q->db, 1);
	sqlite3_busy_handler(q->db, on_busy, q);
	return run_text(s,
			"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
			" PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536",
			err);
}

static void close_store(struct store *s)
{
	struct sqlite *q = s->state;

	for (size_t i = 0; i < q->n; i++)
		sqlite3_finalize(q->kept[i].statement);
	sqlite3_close_v2(q->db); /* rolls back what is open */
	free(q);
}

static bool is_broken(struct store *s)
{
	return ((struct sqlite *)s->state)->broken;
}

static void *handle(struct store *s)
{
	return ((struct sqlite *)s->state)->db;
}

int64_t sqlite_changed(struct store *s)
{
	return sqlite3_changes64(((struct sqlite *)s->state)->db);
}

int64_t sqlite_inserted(struct store *s)
{
	return sqlite3_last_insert_rowid(((struct sqlite *)s->state)->db);
}

/* ---- statements ---- */

static sqlite3_stmt *prepare(struct store *s, const char *sql, struct err *err)
{
	struct sqlite *q = s->state;
	sqlite3_stmt *made;

	for (size_t i = 0; i < q->n; i++)
		if (q->kept[i].sql == sql) {
			sqlite3_reset(q->kept[i].statement);
			return q->kept[i].statement;
		}
	if (q->n == MOST_STATEMENTS) {
		err_set(err, ERR_FAIL, "more than %d kinds of statements", MOST_STATEMENTS);
		return NULL;
	}
	if (sqlite3_prepare_v3(q->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &made, NULL)) {
		fail(s, err);
		return NULL;
	}
	q->kept[q->n].sql = sql;
	q->kept[q->n++].statement = made;
	return made;
}

static void bind(sqlite3_stmt *statement, const char *types, va_list ap)
{
	for (int i = 0; types[i]; i++) {
		const struct str *t = types[i] == 't' ? va_arg(ap, const struct str *) : NULL;

		if (t)
			sqlite3_bind_text64(statement, i + 1, t->p, t->n, SQLITE_STATIC, SQLITE_UTF8);
		else if (types[i] == 'i')
			sqlite3_bind_int64(statement, i + 1, va_arg(ap, int64_t));
		else if (types[i] == 'b')
			sqlite3_bind_blob(statement, i + 1, va_arg(ap, const void *), 16,
					  SQLITE_STATIC);
		else
			sqlite3_bind_text(statement, i + 1, va_arg(ap, const char *), -1,
					  SQLITE_STATIC);
	}
}

int sqlite_more(struct store *s, sqlite3_stmt *row, struct err *err)
{
	int code = sqlite3_step(row);

	if (code == SQLITE_ROW)
		return 1;
	if (code != SQLITE_DONE)
		fail(s, err);
	sqlite3_reset(row);
	return code == SQLITE_DONE ? 0 : -1;
}

static int ask_list(struct store *s, struct err *err, sqlite3_stmt **row, const char *sql,
		    const char *types, va_list ap)
{
	*row = prepare(s, sql, err);
	if (!*row)
		return -1;
	bind(*row, types, ap);
	return sqlite_more(s, *row, err);
}

int sqlite_ask(struct store *s, struct err *err, sqlite3_stmt **row, const char *sql,
	       const char *types, ...)
{
	va_list ap;
	int found;

	va_start(ap, types);
	found = ask_list(s, err, row, sql, types, ap);
	va_end(ap);
	return found;
}

int sqlite_run(struct store *s, struct err *err, int64_t *value, const char *sql, const char *types,
	       ...)
{
	sqlite3_stmt *row;
	va_list ap;
	int found;

	va_start(ap, types);
	found = ask_list(s, err, &row, sql, types, ap);
	va_end(ap);
	if (found <= 0)
		return found;
	if (value)
		*value = sqlite3_column_int64(row, 0);
	sqlite3_reset(row);
	return 1;
}

/* ---- transactions ---- */

static int begin(struct store *s, struct err *err)
{
	return sqlite_run(s, err, NULL, "BEGIN IMMEDIATE", "");
}

static int commit(struct store *s, struct err *err)
{
	return sqlite_run(s, err, NULL, "COMMIT", "");
}

static int rollback(struct store *s, struct err *err)
{
	if (sqlite3_get_autocommit(handle(s))) /* SQLite has done it already */
		return 0;
	return sqlite_run(s, err, NULL, "ROLLBACK", "");
}

int sqlite_enter(struct store *s, struct err *err)
{
	return s->in_transaction ? sqlite_run(s, err, NULL, "SAVEPOINT herald", "") : begin(s, err);
}

int sqlite_leave(struct store *s, int result, struct err *err)
{
	struct err ignored;

	if (result >= 0 && s->in_transaction)
		return sqlite_run(s, err, NULL, "RELEASE herald", "") ? -1 : result;
	if (result >= 0 && commit(s, err) == 0)
		return result;
	if (s->in_transaction) {
		if (sqlite_run(s, &ignored, NULL, "ROLLBACK TO herald", "") ||
		    sqlite_run(s, &ignored, NULL, "RELEASE herald", ""))
			return -1;
	} else if (rollback(s, &ignored)) {
		((struct sqlite *)s->state)->broken = true;
	}
	return -1;
}

/* ---- making it, looking at it ---- */

static int read_version(struct store *s, int64_t *version, struct err *err)
{
	int64_t there;

	*version = 0;
	if (sqlite_run(s, err, &there,
		       "SELECT count(*) FROM sqlite_schema WHERE name = 'herald_migration'", "") < 0)
		return -1;
	if (!there)
		return 0;
	return sqlite_run(s, err, version, "SELECT max(number) FROM herald_migration", "") < 0 ? -1
											       : 0;
}

static int make_tables(struct store *s, int *applied, struct err *err)
{
	int64_t version;

	if (read_version(s, &version, err))
		return -1;
	if (version > VERSION)
		return err_set(err, ERR_CONFIG,
			       "the store in %s has version %d and this program knows %d: use a "
			       "newer pgherald",
			       s->url, (int)version, VERSION);
	*applied = version < VERSION;
	return version < VERSION ? run_text(s, schema, err) : 0;
}

static int init(struct store *s, int *applied, int *version, struct err *err)
{
	*applied = 0;
	*version = VERSION;
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, make_tables(s, applied, err), err);
}

/* A database has the name of its file. */
static int identify(struct store *s, struct store_identity *is, struct err *err)
{
	const char *slash = strrchr(s->url, '/');
	sqlite3_stmt *row;

	if (sqlite_ask(s, err, &row,
		       "SELECT id, coalesce((SELECT seq FROM sqlite_sequence"
		       " WHERE name = 'herald_event'), 0) FROM herald_store",
		       "") < 0)
		return -1;
	is->id = (uint64_t)sqlite3_column_int64(row, 0);
	is->last = sqlite3_column_int64(row, 1);
	is->server_version = (uint32_t)sqlite3_libversion_number();
	snprintf(is->name, sizeof(is->name), "%s", slash ? slash + 1 : s->url);
	sqlite3_reset(row);
	return 0;
}

/* clang-format off */
static const char *const lists[STORE_N_LISTS] = {
	[STORE_CHECK] =
	"SELECT 'the schema is up to date' AS \"check\","
	" CASE max(number) WHEN 1 THEN 't' ELSE 'f' END AS ok,"
	" 'run pgherald store init' AS mend FROM herald_migration"
	" UNION ALL SELECT 'the file is whole', CASE (SELECT group_concat(quick_check)"
	"  FROM pragma_quick_check) WHEN 'ok' THEN 't' ELSE 'f' END, 'restore it from a copy'"
	" UNION ALL SELECT 'readers and the writer do not wait for each other',"
	"  CASE WHEN (SELECT journal_mode FROM pragma_journal_mode) IN ('wal', 'memory')"
	"  THEN 't' ELSE 'f' END, 'put it on a disk of this machine, where WAL works'"
	" UNION ALL SELECT 'versions have no gap at their end', CASE WHEN EXISTS"
	"  (SELECT 1 FROM herald_event e JOIN herald_stream s ON s.number = e.stream_number"
	"  GROUP BY s.number HAVING max(e.version) > s.version) THEN 'f' ELSE 't' END,"
	"  'restore it from a copy'",
	[STORE_STATS] =
	"SELECT 'version' AS name, max(number) AS value FROM herald_migration"
	" UNION ALL SELECT 'streams', count(*) FROM herald_stream"
	" UNION ALL SELECT 'events', count(*) FROM herald_event"
	" UNION ALL SELECT 'last_position', coalesce(max(position), 0) FROM herald_event"
	" UNION ALL SELECT 'horizon', coalesce(max(position), 0) FROM herald_event"
	" UNION ALL SELECT 'in_flight', 0"
	" UNION ALL SELECT 'bytes', page_count * page_size FROM pragma_page_count, pragma_page_size",
	[STORE_LAG] =
	"SELECT c.subscription, c.partition, c.position,"
	" max((SELECT coalesce(max(position), 0) FROM herald_event) - c.position, 0) AS behind,"
	" c.owner, iif(c.stopped, 't', 'f') AS stopped, c.attempts, c.error,"
	" (SELECT count(*) FROM herald_parked p WHERE p.subscription = c.subscription"
	"  AND NOT p.done AND p.stream_number % s.partitions = c.partition) AS parked"
	" FROM herald_checkpoint c JOIN herald_subscription s ON s.name = c.subscription"
	" ORDER BY c.subscription, c.partition",
	[STORE_PARKED_LIST] =
	"SELECT p.position, s.category, s.id AS stream, e.version, e.type, p.attempts, p.error,"
	" strftime('%Y-%m-%dT%H:%M:%fZ', p.parked / 1e6, 'unixepoch') AS parked"
	" FROM herald_parked p LEFT JOIN herald_event e USING (position)"
	" LEFT JOIN herald_stream s ON s.number = e.stream_number"
	" WHERE p.subscription = ? AND NOT p.done ORDER BY p.position",
};
/* clang-format on */

static int list(struct store *s, enum store_list what, const char *name, store_row_fn *fn,
		void *user, struct err *err)
{
	const char *names[16], *values[16];
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row, lists[what], what == STORE_PARKED_LIST ? "s" : "", name);
	int n = found > 0 ? sqlite3_column_count(row) : 0;

	while (found > 0) {
		for (int i = 0; i < n; i++) {
			names[i] = sqlite3_column_name(row, i);
			values[i] = (const char *)sqlite3_column_text(row, i);
		}
		if (fn(user, n, names, values)) {
			sqlite3_reset(row);
			return 0;
		}
		found = sqlite_more(s, row, err);
	}
	return found;
}

/* Nothing wakes: who waits looks again. */
static int listen(struct store *s, int *socket, struct err *err)
{
	*socket = -1;
	return 0;
}

static int sleep_until(struct store *s, const char *name, int64_t *ms, struct err *err)
{
	return 0;
}

static bool drain(struct store *s)
{
	return false;
}

const struct store_backend store_sqlite = {
	.open = open_store,
	.close = close_store,
	.broken = is_broken,
	.handle = handle,
	.init = init,
	.identify = identify,
	.list = list,
	.begin = begin,
	.commit = commit,
	.rollback = rollback,
	.append = sqlite_append,
	.append_many = sqlite_append_many,
	.read = sqlite_read_events,
	.end = sqlite_read_end,
	.load = sqlite_read_load,
	.snapshot = sqlite_retention_snapshot,
	.subscribe = sqlite_subscription_make,
	.unsubscribe = sqlite_subscription_drop,
	.claim = sqlite_subscription_claim,
	.fetch = sqlite_subscription_fetch,
	.ack = sqlite_subscription_ack,
	.renew = sqlite_subscription_renew,
	.release = sqlite_subscription_release,
	.fail = sqlite_subscription_fail,
	.resume = sqlite_subscription_resume,
	.parked_next = sqlite_parked_next,
	.parked_done = sqlite_parked_done,
	.listen = listen,
	.sleep = sleep_until,
	.drain = drain,
	.retain = sqlite_retention_retain,
	.purge = sqlite_retention_purge,
	.truncate = sqlite_retention_truncate,
	.remove = sqlite_retention_remove,
	.redact = sqlite_retention_redact,
};
