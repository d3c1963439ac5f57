/*
 * postgres://... inserts one row a message into a table. Taken when committed.
 *
 * The rows and the position of the last of them are one transaction, so a crash of anybody repeats
 * nothing: the position is read back on opening. Its row belongs to sink->origin, and a transaction
 * only commits when the position still is what this connection last knew. So what an earlier
 * connection left behind in the network or in a server process cannot come in between.
 *
 * A message that the server refuses (a number or a character that jsonb has not, a constraint, a
 * trigger) is found by halving, and settled before anything behind it is committed: the position
 * stands for all before it.
 */
#include "base/mem.h"
#include "pg/conn.h"
#include "sink/refuse.h"
#include "sink/sink.h"

#include <endian.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* Without a sign of the server for so long its connection is given up; the server itself gives a
 * statement up before, so that none piles up behind somebody's lock. */
#define ANSWER_MS 30000
#define STATEMENT_TIMEOUT "25s"

#define PIECE (256u << 10)
#define EPOCH_2000_US 946684800000000

static const char *const event_types[] = { "jsonb", "json", "text", NULL };

struct postgres {
	PGconn *conn;
	struct strbuf schema, table, positions; /* as they are */
	struct strbuf quoted, quoted_positions; /* with schema and quotes */
	struct strbuf own, own_positions;       /* schema.table, as batch_table has them */
	bool captured;                          /* this is the database that events come from */
	bool jsonb;
	bool letters;           /* dead letters, of many writers, in no order: without a position */
	int32_t writer;         /* this output's number in the table of positions */
	struct position stored; /* what stands there */
	struct strbuf sql, copy;
};

static int lost(PGconn *conn, struct err *err)
{
	err_set(err, ERR_RETRY, "%s", PQerrorMessage(conn));
	err->msg[strcspn(err->msg, "\n")] = '\0';
	if (!err->msg[0])
		err_set(err, ERR_RETRY, "the connection to PostgreSQL was lost");
	return -1;
}

/* Kinds as a destination means them. REJECT is for what lies in the row. */
static enum err_kind classify(const char *state)
{
	static const char *const rejects[] = { "22", "23", "38", "39", "54", "P0" };
	enum err_kind kind;

	if (!state)
		return ERR_RETRY;
	if (strcmp(state, "55P03") == 0)
		return ERR_RETRY;
	for (size_t i = 0; i < sizeof(rejects) / sizeof(rejects[0]); i++)
		if (strncmp(state, rejects[i], 2) == 0)
			return ERR_REJECT;
	kind = conn_classify(state);
	return kind == ERR_LOST ? ERR_CONFIG : kind == ERR_BUSY ? ERR_RETRY : kind;
}

/* Fills err from a result that failed. */
static int refused(const PGresult *res, struct err *err)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);

	if (state && strcmp(state, "22012") == 0) /* see put_statement */
		return err_set(err, ERR_RETRY,
			       "another connection has written for this output meanwhile");
	err_set(err, classify(state), "%s%s%s%s", text ? text : PQresultErrorMessage(res),
		detail ? " (" : "", detail ? detail : "", detail ? ")" : "");
	err->msg[strcspn(err->msg, "\n")] = '\0';
	if (state && strcmp(state, "42501") == 0)
		return err_add(
			err, "a right is missing; see \"Rights\" in docs/destinations/postgres.md");
	return -1;
}

/* ---- opening ---- */

static PGresult *ask(PGconn *conn, struct err *err, const char *sql, int n, const char *const *params)
{
	PGresult *res = conn_query(conn, err, sql, n, params);

	if (!res && (err->kind == ERR_LOST || err->kind == ERR_FAIL))
		err->kind = ERR_CONFIG;
	if (!res && err->kind == ERR_BUSY)
		err->kind = ERR_RETRY;
	return res;
}

static int run(PGconn *conn, struct err *err, const char *sql)
{
	PGresult *res = ask(conn, err, sql, 0, NULL);

	PQclear(res);
	return res ? 0 : -1;
}

static void put_quoted(struct strbuf *out, PGconn *conn, const struct strbuf *name)
{
	char *quoted = PQescapeIdentifier(conn, name->p, name->n);

	if (!quoted)
		mem_die();
	strbuf_str(out, str_c(quoted));
	PQfreemem(quoted);
}

static void put_names(struct postgres *p, const struct strbuf *name, struct strbuf *quoted,
		      struct strbuf *own)
{
	put_quoted(quoted, p->conn, &p->schema);
	strbuf_ch(quoted, '.');
	put_quoted(quoted, p->conn, name);
	strbuf_cstr(quoted);
	strbuf_str(own, strbuf_view(&p->schema));
	strbuf_ch(own, '.');
	strbuf_str(own, strbuf_view(name));
}

/* table=NAME is in the first schema of the search path, table=SCHEMA.NAME there. */
static int name_tables(struct sink *s, struct err *err)
{
	struct postgres *p = s->state;
	const char *table = sink_text(s, "table"), *dot = strchr(table, '.');
	PGresult *res;

	if (dot) {
		strbuf_add(&p->schema, table, (size_t)(dot - table));
	} else {
		if (run(p->conn, err, "RESET search_path"))
			return -1;
		res = ask(p->conn, err, "SELECT pg_catalog.current_schema()", 0, NULL);
		if (!res)
			return -1;
		strbuf_str(&p->schema, str_c(PQgetvalue(res, 0, 0)));
		PQclear(res);
	}
	if (!p->schema.n)
		return err_set(err, ERR_CONFIG,
			       "there is no schema for the table: say table=SCHEMA.%s", table);
	strbuf_str(&p->table, str_c(dot ? dot + 1 : table));
	strbuf_str(&p->positions, str_c(sink_text(s, "positions")));
	put_names(p, &p->table, &p->quoted, &p->own);
	put_names(p, &p->positions, &p->quoted_positions, &p->own_positions);
	return run(p->conn, err,
		   "SET search_path = pg_catalog; SET statement_timeout = '" STATEMENT_TIMEOUT "'");
}

/* The columns of a table, "name type" by name; NULL: there is no such table. */
static PGresult *columns(struct postgres *p, struct strbuf *table, const char *names, struct err *err)
{
	const char *params[] = { strbuf_cstr(&p->schema), strbuf_cstr(table), names };

	return ask(p->conn, err,
		   "SELECT c.oid, format_type(a.atttypid, NULL) FROM pg_class c "
		   "JOIN pg_namespace n ON n.oid = c.relnamespace "
		   "CROSS JOIN unnest($3::text[]) WITH ORDINALITY want (name, i) "
		   "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = want.name "
		   "AND a.attnum > 0 AND NOT a.attisdropped "
		   "WHERE n.nspname = $1 AND c.relname = $2 ORDER BY want.i",
		   3, params);
}

/* Two that make the same table at once: one is told that it is there. */
static int create(struct postgres *p, const char *sql, struct err *err)
{
	PGresult *res = PQexec(p->conn, sql);
	int failed = 0;

	if (PQresultStatus(res) != PGRES_COMMAND_OK) {
		failed = refused(res, err);
		if (err->kind == ERR_REJECT || strstr(err->msg, "already exists"))
			err->kind = ERR_RETRY;
	}
	PQclear(res);
	return failed;
}

static int create_table(struct postgres *p, struct err *err)
{
	struct strbuf sql = { 0 };
	int failed;

	strbuf_printf(&sql,
		      "CREATE TABLE %s (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
		      "writer integer NOT NULL, id text COLLATE \"C\" NOT NULL, "
		      "committed_at timestamptz NOT NULL, "
		      "received_at timestamptz NOT NULL DEFAULT now(), event jsonb NOT NULL)",
		      p->quoted.p);
	failed = create(p, strbuf_cstr(&sql), err);
	strbuf_release(&sql);
	return failed;
}

static bool is_type(const PGresult *res, int row, const char *type)
{
	return strcmp(PQgetvalue(res, row, 1), type) == 0;
}

static int check_table(struct postgres *p, const PGresult *res, struct err *err)
{
	size_t i = 0;

	while (event_types[i] && !is_type(res, 3, event_types[i]))
		i++;
	if (event_types[i] && is_type(res, 0, "integer") && is_type(res, 1, "text") &&
	    is_type(res, 2, "timestamp with time zone")) {
		p->jsonb = i == 0;
		return 0;
	}
	return err_set(
		err, ERR_CONFIG,
		"the table %s is not one of pgherald's: it needs the columns writer integer, "
		"id text, committed_at timestamptz and event jsonb (or json, or text); "
		"name another table, which will be made",
		p->quoted.p);
}

/* Makes the table where it is missing and looks at its columns. */
static int have_table(struct postgres *p, struct err *err)
{
	for (int made = 0; made <= 1; made++) {
		PGresult *res = columns(p, &p->table, "{writer,id,committed_at,event}", err);
		int failed, found;

		if (!res)
			return -1;
		found = PQntuples(res) == 4;
		failed = found ? check_table(p, res, err) : 0;
		PQclear(res);
		if (found || failed)
			return failed;
		if (!made && create_table(p, err))
			return -1;
	}
	return err_set(err, ERR_RETRY, "the table %s went as soon as it was made", p->quoted.p);
}

static int have_positions(struct postgres *p, struct err *err)
{
	struct strbuf sql = { 0 };
	PGresult *res = columns(p, &p->positions, "{writer}", err);
	int found = PQntuples(res), failed;

	PQclear(res);
	if (!res || found)
		return res ? 0 : -1;
	strbuf_printf(&sql,
		      "CREATE TABLE %s (writer integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
		      "origin text NOT NULL UNIQUE, position text NOT NULL DEFAULT '', "
		      "mark_lsn pg_lsn, mark_system numeric, mark_timeline bigint, "
		      "updated_at timestamptz NOT NULL DEFAULT now())",
		      p->quoted_positions.p);
	failed = create(p, strbuf_cstr(&sql), err);
	strbuf_release(&sql);
	return failed;
}

static void take_state(struct sink *s, const PGresult *res)
{
	struct postgres *p = s->state;

	p->writer = (int32_t)strtol(PQgetvalue(res, 0, 0), NULL, 10);
	if (position_parse(str_c(PQgetvalue(res, 0, 1)), &p->stored))
		s->held = p->stored;
	if (lsn_parse(str_c(PQgetvalue(res, 0, 2)), &s->mark.lsn)) {
		s->mark.system_id = strtoull(PQgetvalue(res, 0, 3), NULL, 10);
		s->mark.timeline = (uint32_t)strtoul(PQgetvalue(res, 0, 4), NULL, 10);
	}
}

/* Reads what is known of this writer; makes its row at first. */
static int read_state(struct sink *s, struct err *err)
{
	struct postgres *p = s->state;
	const char *const params[] = { s->origin };
	struct strbuf sql = { 0 };
	PGresult *res;
	int n = 0;

	strbuf_printf(&sql,
		      "SELECT writer, position, mark_lsn, mark_system, mark_timeline FROM %s "
		      "WHERE origin = $1",
		      p->quoted_positions.p);
	res = ask(p->conn, err, strbuf_cstr(&sql), 1, params);
	n = res ? PQntuples(res) : -1;
	if (n == 0) {
		PQclear(res);
		sql.n = 0;
		strbuf_printf(&sql,
			      "INSERT INTO %s (origin) VALUES ($1) RETURNING writer, position, "
			      "mark_lsn, mark_system, mark_timeline",
			      p->quoted_positions.p);
		res = ask(p->conn, err, strbuf_cstr(&sql), 1, params);
		n = res ? PQntuples(res) : -1;
	}
	if (n == 1)
		take_state(s, res);
	PQclear(res);
	strbuf_release(&sql);
	return n == 1 ? 0 : -1;
}

/* Whether the events come from this very database: origin is SYSTEM/DATABASE/SLOT/OUTPUT. */
static int look_for_loop(struct sink *s, struct err *err)
{
	struct postgres *p = s->state;
	const char *end = strrchr(s->origin, '/');
	PGresult *res;
	const char *here;

	while (end && end > s->origin && *--end != '/')
		;
	res = ask(p->conn, err,
		  "SELECT system_identifier || '/' || current_database() FROM pg_control_system()",
		  0, NULL);
	if (!res) /* a service that does not let one see it; then it is not known */
		return err->kind == ERR_RETRY ? -1 : 0;
	here = PQgetvalue(res, 0, 0);
	p->captured = end &&
		      str_eq(str_c(here), (struct str){ s->origin, (size_t)(end - s->origin) });
	PQclear(res);
	return 0;
}

static int postgres_open(struct sink *s, struct err *err)
{
	struct postgres *p = s->state;
	struct strbuf uri = { 0 };

	p->letters = s->is_dead_letter;
	driver_rest(s->driver, &s->url, &uri);
	p->conn = conn_open(strbuf_cstr(&uri), CONN_SQL, err);
	strbuf_release(&uri);
	if (!p->conn)
		return -1;
	if (name_tables(s, err) || have_table(p, err) || have_positions(p, err))
		return -1;
	return read_state(s, err) || look_for_loop(s, err);
}

/* ---- one transaction ---- */

/* Waits until the socket can be written (where that is wanted) or read, and reads. */
static int wait_socket(PGconn *conn, bool writing, struct err *err)
{
	struct pollfd pfd = { PQsocket(conn), POLLIN, 0 };

	if (writing)
		pfd.events |= POLLOUT;
	if (poll(&pfd, 1, ANSWER_MS) == 0)
		return err_set(err, ERR_RETRY, "no answer from PostgreSQL in %d s", ANSWER_MS / 1000);
	if (pfd.revents & ~POLLOUT && !PQconsumeInput(conn))
		return lost(conn, err);
	return 0;
}

static int flush(PGconn *conn, struct err *err)
{
	int left;

	while ((left = PQflush(conn)) == 1)
		if (wait_socket(conn, true, err))
			return -1;
	return left ? lost(conn, err) : 0;
}

/* The next result, which the caller clears; NULL in *res: there is none. */
static int next_result(PGconn *conn, PGresult **res, struct err *err)
{
	while (PQisBusy(conn))
		if (wait_socket(conn, false, err))
			return -1;
	*res = PQgetResult(conn);
	return 0;
}

/* One text is one transaction. The position must be what it was; where it is not, there is nothing
 * to update and the division fails. */
static void put_statement(struct postgres *p, struct position last)
{
	char before[POSITION_LEN], after[POSITION_LEN];

	position_print(p->stored, before);
	position_print(last, after);
	p->sql.n = 0;
	strbuf_printf(&p->sql, "COPY %s (writer, id, committed_at, event) FROM STDIN (FORMAT binary)",
		      p->quoted.p);
	if (p->letters)
		return;
	strbuf_printf(&p->sql,
		      "; WITH u AS (UPDATE %s SET position = '%.*s', updated_at = now() "
		      "WHERE writer = %" PRId32 " AND position = '%.*s' RETURNING 1) "
		      "SELECT 1 / count(*) FROM u",
		      p->quoted_positions.p, POSITION_LEN, after, p->writer,
		      p->stored.lsn ? POSITION_LEN : 0, before);
}

static int put_bytes(struct postgres *p, const char *at, size_t n, struct err *err)
{
	while (n) {
		size_t piece = n < PIECE ? n : PIECE;
		int done = PQputCopyData(p->conn, at, (int)piece);

		if (done < 0)
			return lost(p->conn, err);
		if (flush(p->conn, err))
			return -1;
		if (done) {
			at += piece;
			n -= piece;
		}
	}
	return 0;
}

static int put_copied(struct postgres *p, struct err *err)
{
	int failed = put_bytes(p, p->copy.p, p->copy.n, err);

	p->copy.n = 0;
	return failed;
}

static void put_int(struct strbuf *out, const void *bytes, int32_t n)
{
	int32_t length = (int32_t)htobe32((uint32_t)n);

	strbuf_add(out, &length, sizeof(length));
	strbuf_add(out, bytes, (size_t)n);
}

/* COPY's binary form: the number of fields, then each one's length and bytes. */
static int put_row(struct postgres *p, const struct message *m, struct str body, struct err *err)
{
	uint16_t fields = htobe16(4);
	uint32_t writer = htobe32((uint32_t)p->writer);
	uint32_t length = htobe32((uint32_t)(body.n + p->jsonb));
	uint64_t time = htobe64((uint64_t)(m->time - EPOCH_2000_US));
	char id[POSITION_LEN];

	position_print(m->position, id);
	strbuf_add(&p->copy, &fields, sizeof(fields));
	put_int(&p->copy, &writer, sizeof(writer));
	put_int(&p->copy, id, POSITION_LEN);
	put_int(&p->copy, &time, sizeof(time));
	strbuf_add(&p->copy, &length, sizeof(length));
	if (p->jsonb)
		strbuf_ch(&p->copy, 1); /* the version of jsonb's binary form: text follows */
	if (body.n >= PIECE) {          /* not copied once more */
		if (put_copied(p, err))
			return -1;
		return put_bytes(p, body.p, body.n, err);
	}
	strbuf_str(&p->copy, body);
	return p->copy.n >= PIECE ? put_copied(p, err) : 0;
}

static int put_rows(struct postgres *p, const struct batch *b, uint32_t from, uint32_t to,
		    struct err *err)
{
	static const char head[] = "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0";
	static const char tail[] = { '\377', '\377' };
	int done;

	p->copy.n = 0;
	strbuf_add(&p->copy, head, sizeof(head)); /* its last byte is the string's NUL */
	for (uint32_t i = from; i < to; i++)
		if (put_row(p, &b->messages[i], batch_body(b, i), err))
			return -1;
	strbuf_add(&p->copy, tail, sizeof(tail));
	if (put_copied(p, err))
		return -1;
	while ((done = PQputCopyEnd(p->conn, NULL)) == 0)
		if (flush(p->conn, err))
			return -1;
	return done < 0 ? lost(p->conn, err) : flush(p->conn, err);
}

/* Reads all results; the first that failed is the one that counts. */
static int read_results(struct postgres *p, struct err *err)
{
	int failed = 0;
	PGresult *res;

	for (;;) {
		if (next_result(p->conn, &res, err))
			return -1;
		if (!res)
			return failed;
		if (PQresultStatus(res) == PGRES_FATAL_ERROR && !failed)
			failed = refused(res, err);
		PQclear(res);
	}
}

static int transact(struct postgres *p, const struct batch *b, uint32_t from, uint32_t to,
		    struct err *err)
{
	PGresult *res;
	bool copying;

	put_statement(p, b->messages[to - 1].position);
	if (PQsetnonblocking(p->conn, 1) || !PQsendQuery(p->conn, strbuf_cstr(&p->sql)) ||
	    flush(p->conn, err))
		return lost(p->conn, err);
	if (next_result(p->conn, &res, err))
		return -1;
	copying = PQresultStatus(res) == PGRES_COPY_IN;
	if (!copying)
		refused(res, err);
	PQclear(res);
	if (copying && put_rows(p, b, from, to, err))
		return -1;
	if (read_results(p, err) || !copying)
		return -1;
	p->stored = b->messages[to - 1].position;
	return PQsetnonblocking(p->conn, 0) ? lost(p->conn, err) : 0;
}

/* ---- sending ---- */

/* What becomes of this one is decided before anything behind it is stored. */
static int refuse_one(struct sink *s, uint64_t seq, struct err *err)
{
	sink_refuse(s, seq, err->msg);
	if (refuse_settle(s, err))
		return -1;
	return sink_taken(s) >= seq ? 0 : err_set(err, ERR_RETRY, "it ends");
}

static int store(struct sink *s, const struct batch *b, uint32_t from, uint32_t to, struct err *err)
{
	uint32_t half = from + (to - from) / 2;

	if (transact(s->state, b, from, to, err) == 0) {
		sink_took(s, b->first + to - 1);
		return 0;
	}
	if (err->kind != ERR_REJECT)
		return -1;
	if (to - from == 1)
		return refuse_one(s, b->first + from, err);
	return store(s, b, from, half, err) || store(s, b, half, to, err) ? -1 : 0;
}

/* An event of our own table would be a row of it, and that an event. */
static int check_loop(const struct postgres *p, const struct batch *b, uint32_t from, uint32_t to,
		      struct err *err)
{
	for (uint32_t i = from; i < to && p->captured; i++) {
		struct str table = batch_table(b, i);

		if (str_eq(table, strbuf_view(&p->own)) ||
		    str_eq(table, strbuf_view(&p->own_positions)))
			return err_set(
				err, ERR_CONFIG,
				"the table %.*s, which is written here, is itself captured: "
				"each event would make another one. Leave it and %.*s out with "
				"tables, as in tables: [\"!%.*s\", \"!%.*s\"]",
				STR_ARG(strbuf_view(&p->own)),
				STR_ARG(strbuf_view(&p->own_positions)),
				STR_ARG(strbuf_view(&p->own)),
				STR_ARG(strbuf_view(&p->own_positions)));
	}
	return 0;
}

static int postgres_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
			 struct err *err)
{
	return check_loop(s->state, b, from, to, err) || store(s, b, from, to, err) ? -1 : 0;
}

/* All that was sent is taken, or settled, already. */
static int postgres_poll(struct sink *s, int timeout_ms, struct err *err)
{
	if (timeout_ms)
		sink_wait(s, timeout_ms);
	return 0;
}

static int postgres_mark(struct sink *s, const struct mark *m, struct err *err)
{
	struct postgres *p = s->state;

	p->sql.n = 0;
	strbuf_printf(&p->sql,
		      "UPDATE %s SET mark_lsn = '" LSN_FMT "', mark_system = %" PRIu64
		      ", mark_timeline = %" PRIu32 ", updated_at = now() WHERE writer = %" PRId32,
		      p->quoted_positions.p, LSN_ARG(m->lsn), m->system_id, m->timeline, p->writer);
	return run(p->conn, err, strbuf_cstr(&p->sql));
}

static void postgres_close(struct sink *s)
{
	struct postgres *p = s->state;
	struct strbuf *buffers[] = {
		&p->schema, &p->table,         &p->positions, &p->quoted, &p->quoted_positions,
		&p->own,    &p->own_positions, &p->sql,       &p->copy
	};

	PQfinish(p->conn);
	for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
		strbuf_release(buffers[i]);
}

/* libpq looks at its own part. */
extern const struct sink_driver sink_postgres;

static int postgres_check(const struct url *url, struct err *err)
{
	struct strbuf uri = { 0 };
	PQconninfoOption *options;
	char *why = NULL;

	if (!url_param(url, "table"))
		return err_set(err, ERR_CONFIG, "it names no table: end it with ?table=NAME");
	driver_rest(&sink_postgres, url, &uri);
	options = PQconninfoParse(strbuf_cstr(&uri), &why);
	strbuf_release(&uri);
	if (!options)
		err_set(err, ERR_CONFIG, "%.*s", why ? (int)strcspn(why, "\n") : 0, why);
	PQconninfoFree(options);
	PQfreemem(why);
	return options ? 0 : -1;
}

static const struct sink_param params[] = {
	{ "table", PARAM_TEXT, "[SCHEMA.]NAME", NULL, 1, 127, "rows go here; made when missing" },
	{ "positions", PARAM_TEXT, "NAME", "pgherald_positions", 1, 63,
	  "the table of positions, in the same schema; made when missing" },
	{ "*", PARAM_TEXT, "VALUE", NULL, 0, 4096, "what libpq knows, such as sslmode" },
	{ 0 },
};

const struct sink_driver sink_postgres = {
	.name = "postgres",
	.schemes = (const char *const[]){ "postgres", "postgresql", NULL },
	.help = "postgres://HOST/DB?table=NAME  inserts rows; taken when committed",
	.params = params,
	.state_size = sizeof(struct postgres),
	.check = postgres_check,
	.open = postgres_open,
	.send = postgres_send,
	.poll = postgres_poll,
	.mark = postgres_mark,
	.close = postgres_close,
};
