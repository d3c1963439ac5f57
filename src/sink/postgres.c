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
#include "pg/conn.h"
#include "sink/postgres_tables.h"
#include "sink/refuse.h"

#include <endian.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* Without a sign of the server for so long its connection is given up. */
#define ANSWER_MS 30000

#define PIECE (256u << 10)
#define EPOCH_2000_US 946684800000000

static int lost(PGconn *conn, struct err *err)
{
	err_set(err, ERR_RETRY, "%s", PQerrorMessage(conn));
	err->msg[strcspn(err->msg, "\n")] = '\0';
	if (!err->msg[0])
		err_set(err, ERR_RETRY, "the connection to PostgreSQL was lost");
	return -1;
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
	return postgres_tables(s, err);
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
			failed = postgres_refused(res, err);
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
		postgres_refused(res, err);
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
	return postgres_run(p->conn, err, strbuf_cstr(&p->sql));
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
