/*
 * sqlite:PATH inserts one row a message into a table. Taken when committed, which is when fsync has
 * returned (synchronous=FULL).
 *
 * The rows and the position of the last of them are one transaction, so a crash repeats nothing:
 * the position is read back on opening. Its row belongs to sink->origin, and a transaction only
 * commits when the position still is what this connection last knew: a process that was thought
 * dead cannot come in between.
 *
 * A message that is refused (too large, a constraint or trigger of the user's) is settled before
 * anything behind it is committed: the position stands for all before it.
 */
#include "base/mem.h"
#include "base/time.h"
#include "sink/refuse.h"
#include "sink/sink.h"

#include <inttypes.h>
#include <sqlite3.h>
#include <stdlib.h>

#define BUSY_MS 5000

struct sqlite {
	sqlite3 *db;
	sqlite3_stmt *begin, *insert, *move, *commit, *rollback, *mark;
	int64_t writer;         /* this output's number in the table of positions */
	struct position stored; /* what stands there */
};

/* Kinds of SQLite's primary result codes; others are the user's to mend. */
static enum err_kind classify(int code)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_FULL:
	case SQLITE_IOERR:
	case SQLITE_INTERRUPT:
	case SQLITE_PROTOCOL:
	case SQLITE_SCHEMA:
		return ERR_RETRY;
	case SQLITE_TOOBIG:
	case SQLITE_CONSTRAINT:
	case SQLITE_MISMATCH:
		return ERR_REJECT;
	default:
		return ERR_CONFIG;
	}
}

static int fail(const struct sink *s, struct err *err)
{
	const struct sqlite *q = s->state;
	int code = sqlite3_extended_errcode(q->db);

	return err_set(err, classify(code), "%s: %s", s->url.path, sqlite3_errmsg(q->db));
}

static int run(struct sink *s, const char *sql, struct err *err)
{
	struct sqlite *q = s->state;

	return sqlite3_exec(q->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, err);
}

/* In SQL, %w is a name between double quotes. */
static int run_name(struct sink *s, const char *sql, const char *name, struct err *err)
{
	char *text = sqlite3_mprintf(sql, name);
	int failed;

	if (!text)
		mem_die();
	failed = run(s, text, err);
	sqlite3_free(text);
	return failed;
}

static int prepare(struct sink *s, sqlite3_stmt **out, const char *sql, const char *name,
		   struct err *err)
{
	struct sqlite *q = s->state;
	char *text = sqlite3_mprintf(sql, name);
	int code;

	if (!text)
		mem_die();
	code = sqlite3_prepare_v3(q->db, text, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
	sqlite3_free(text);
	return code == SQLITE_OK ? 0 : fail(s, err);
}

/* Runs a prepared statement that returns no rows. */
static int step(struct sink *s, sqlite3_stmt *statement, struct err *err)
{
	int failed = sqlite3_step(statement) == SQLITE_DONE ? 0 : fail(s, err);

	sqlite3_reset(statement);
	return failed;
}

/* ---- opening ---- */

static int make_tables(struct sink *s, struct err *err)
{
	if (run_name(s,
		     "CREATE TABLE IF NOT EXISTS \"%w\" (n INTEGER PRIMARY KEY AUTOINCREMENT, "
		     "writer INTEGER NOT NULL, id TEXT NOT NULL, committed_at TEXT NOT NULL, "
		     "received_at TEXT NOT NULL DEFAULT (strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ')), "
		     "event TEXT NOT NULL)",
		     sink_text(s, "table"), err))
		return -1;
	return run_name(s,
			"CREATE TABLE IF NOT EXISTS \"%w\" (writer INTEGER PRIMARY KEY, "
			"origin TEXT NOT NULL UNIQUE, position TEXT NOT NULL DEFAULT '', "
			"mark_lsn TEXT, mark_system TEXT, mark_timeline INTEGER)",
			sink_text(s, "positions"), err);
}

static int prepare_all(struct sink *s, struct err *err)
{
	struct sqlite *q = s->state;
	const char *table = sink_text(s, "table"), *positions = sink_text(s, "positions");

	return prepare(s, &q->begin, "BEGIN IMMEDIATE", NULL, err) ||
	       prepare(s, &q->commit, "COMMIT", NULL, err) ||
	       prepare(s, &q->rollback, "ROLLBACK", NULL, err) ||
	       prepare(s, &q->insert,
		       "INSERT INTO \"%w\" (writer, id, committed_at, event) VALUES (?, ?, ?, ?)",
		       table, err) ||
	       prepare(s, &q->move,
		       "UPDATE \"%w\" SET position = ? WHERE writer = ? AND position = ?",
		       positions, err) ||
	       prepare(s, &q->mark,
		       "UPDATE \"%w\" SET mark_lsn = ?, mark_system = ?, mark_timeline = ? "
		       "WHERE writer = ?",
		       positions, err);
}

static const char *column(sqlite3_stmt *statement, int i)
{
	const char *text = (const char *)sqlite3_column_text(statement, i);

	return text ? text : "";
}

static void take_state(struct sink *s, sqlite3_stmt *statement)
{
	struct sqlite *q = s->state;

	q->writer = sqlite3_column_int64(statement, 0);
	if (position_parse(str_c(column(statement, 1)), &q->stored))
		s->held = q->stored;
	if (lsn_parse(str_c(column(statement, 2)), &s->mark.lsn)) {
		s->mark.system_id = strtoull(column(statement, 3), NULL, 10);
		s->mark.timeline = (uint32_t)sqlite3_column_int64(statement, 4);
	}
}

/* Makes this writer's row at first, and reads it. */
static int read_state(struct sink *s, struct err *err)
{
	sqlite3_stmt *insert = NULL, *select = NULL;
	const char *positions = sink_text(s, "positions");
	int failed = prepare(s, &insert, "INSERT OR IGNORE INTO \"%w\" (origin) VALUES (?)",
			     positions, err) ||
		     prepare(s, &select,
			     "SELECT writer, position, mark_lsn, mark_system, mark_timeline "
			     "FROM \"%w\" WHERE origin = ?",
			     positions, err);

	if (!failed) {
		sqlite3_bind_text(insert, 1, s->origin, -1, SQLITE_STATIC);
		sqlite3_bind_text(select, 1, s->origin, -1, SQLITE_STATIC);
		failed = step(s, insert, err);
	}
	if (!failed && sqlite3_step(select) == SQLITE_ROW)
		take_state(s, select);
	else if (!failed)
		failed = fail(s, err);
	sqlite3_finalize(insert);
	sqlite3_finalize(select);
	return failed;
}

static int sqlite_open(struct sink *s, struct err *err)
{
	struct sqlite *q = s->state;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
	int failed = sqlite3_open_v2(s->url.path, &q->db, flags, NULL);

	if (!q->db)
		mem_die();
	sqlite3_extended_result_codes(q->db, 1);
	if (failed)
		return fail(s, err);
	sqlite3_busy_timeout(q->db, BUSY_MS);
	failed = run(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL", err) ||
		 make_tables(s, err) || prepare_all(s, err) || read_state(s, err);
	if (failed && err->kind == ERR_REJECT)
		err->kind = ERR_CONFIG;
	return failed ? -1 : 0;
}

/* ---- sending ---- */

static int insert(struct sink *s, const struct message *m, struct str body, struct err *err)
{
	struct sqlite *q = s->state;
	struct strbuf time = { 0 };
	char id[POSITION_LEN];
	int failed;

	position_print(m->position, id);
	time_print(&time, m->time, 'T', 6);
	strbuf_ch(&time, 'Z');
	sqlite3_bind_int64(q->insert, 1, q->writer);
	sqlite3_bind_text(q->insert, 2, id, POSITION_LEN, SQLITE_STATIC);
	sqlite3_bind_text(q->insert, 3, time.p, (int)time.n, SQLITE_STATIC);
	if (sqlite3_bind_text64(q->insert, 4, body.p, body.n, SQLITE_STATIC, SQLITE_UTF8))
		failed = fail(s, err);
	else
		failed = step(s, q->insert, err);
	sqlite3_clear_bindings(q->insert);
	strbuf_release(&time);
	return failed;
}

/* The position must be what it was. */
static int move(struct sink *s, struct position last, struct err *err)
{
	struct sqlite *q = s->state;
	char before[POSITION_LEN], after[POSITION_LEN];

	if (s->is_dead_letter) /* of many writers, in no order */
		return 0;
	position_print(q->stored, before);
	position_print(last, after);
	sqlite3_bind_text(q->move, 1, after, POSITION_LEN, SQLITE_STATIC);
	sqlite3_bind_int64(q->move, 2, q->writer);
	sqlite3_bind_text(q->move, 3, before, q->stored.lsn ? POSITION_LEN : 0, SQLITE_STATIC);
	if (step(s, q->move, err))
		return -1;
	if (sqlite3_changes(q->db) == 1)
		return 0;
	return err_set(err, ERR_RETRY, "%s: another process has written for this output meanwhile",
		       s->url.path);
}

/* Inserts as many as go from *at on, and commits these; *at is then the first that was not
 * inserted, and `refused` says why. */
static int transact(struct sink *s, const struct batch *b, uint32_t *at, uint32_t to,
		    struct err *refused, struct err *err)
{
	struct sqlite *q = s->state;
	uint32_t from = *at, i = from;

	if (step(s, q->begin, err))
		return -1;
	while (i < to && !insert(s, &b->messages[i], batch_body(b, i), refused))
		i++;
	if (i < to && refused->kind != ERR_REJECT) {
		*err = *refused;
		return -1;
	}
	*at = i;
	if (sqlite3_get_autocommit(q->db)) /* a trigger has rolled all back */
		return err_set(err, ERR_CONFIG,
			       "a trigger of the table ends the transaction: %s; let it refuse one "
			       "row with RAISE(ABORT, ...)",
			       refused->msg);
	if (i == from)
		return step(s, q->rollback, err);
	if (move(s, b->messages[i - 1].position, err) || step(s, q->commit, err))
		return -1;
	q->stored = b->messages[i - 1].position;
	sink_took(s, b->first + i - 1);
	return 0;
}

/* What becomes of this one is decided before anything behind it is stored. */
static int refuse_one(struct sink *s, uint64_t seq, const struct err *why, struct err *err)
{
	sink_refuse(s, seq, why->msg);
	if (refuse_settle(s, err))
		return -1;
	return sink_taken(s) >= seq ? 0 : err_set(err, ERR_RETRY, "it ends");
}

static int sqlite_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		       struct err *err)
{
	while (from < to) {
		struct err refused = { 0 };

		if (transact(s, b, &from, to, &refused, err))
			return -1;
		if (from < to && refuse_one(s, b->first + from, &refused, err))
			return -1;
		from++;
	}
	return 0;
}

/* All that was sent is taken, or settled, already. */
static int sqlite_poll(struct sink *s, int timeout_ms, struct err *err)
{
	if (timeout_ms)
		sink_wait(s, timeout_ms);
	return 0;
}

static int sqlite_mark(struct sink *s, const struct mark *m, struct err *err)
{
	struct sqlite *q = s->state;
	struct strbuf lsn = { 0 }, system = { 0 };
	int failed;

	strbuf_printf(&lsn, LSN_FMT, LSN_ARG(m->lsn));
	strbuf_printf(&system, "%" PRIu64, m->system_id);
	sqlite3_bind_text(q->mark, 1, lsn.p, (int)lsn.n, SQLITE_STATIC);
	sqlite3_bind_text(q->mark, 2, system.p, (int)system.n, SQLITE_STATIC);
	sqlite3_bind_int64(q->mark, 3, m->timeline);
	sqlite3_bind_int64(q->mark, 4, q->writer);
	failed = step(s, q->mark, err);
	strbuf_release(&lsn);
	strbuf_release(&system);
	return failed;
}

static void sqlite_close(struct sink *s)
{
	struct sqlite *q = s->state;
	sqlite3_stmt *all[] = { q->begin, q->insert, q->move, q->commit, q->rollback, q->mark };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		sqlite3_finalize(all[i]);
	sqlite3_close(q->db); /* rolls back what is open */
}

static int sqlite_check(const struct url *url, struct err *err)
{
	if (!url->path[0] || url->nhosts || url->path[0] == ':')
		return err_set(err, ERR_CONFIG, "it names no file, as sqlite:PATH?table=NAME does");
	if (!url_param(url, "table"))
		return err_set(err, ERR_CONFIG, "it names no table: end it with ?table=NAME");
	return 0;
}

static const struct sink_param params[] = {
	{ "table", PARAM_TEXT, "NAME", NULL, 1, 100, "rows go here; made when missing" },
	{ "positions", PARAM_TEXT, "NAME", "pgherald_positions", 1, 100,
	  "the table of positions; made when missing" },
	{ 0 },
};

const struct sink_driver sink_sqlite = {
	.name = "sqlite",
	.schemes = (const char *const[]){ "sqlite", NULL },
	.help = "sqlite:PATH?table=NAME  inserts rows; taken when committed",
	.params = params,
	.state_size = sizeof(struct sqlite),
	.check = sqlite_check,
	.open = sqlite_open,
	.send = sqlite_send,
	.poll = sqlite_poll,
	.mark = sqlite_mark,
	.close = sqlite_close,
};
