#include "pg/conn.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/strbuf.h"

#include <libpq-events.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_TIMEOUT "10"
#define CONNECT_MS 10000

/* A statement without an answer for so long is given up with its connection: the network may have
 * gone without a word. */
#define ANSWER_MS 30000

/* From the wish to stop on an answer is waited for only so long. */
#define STOPPING_MS 1000
#define LOOK_FOR_STOP_MS 100

/* SQLSTATEs, or their first characters, and what they mean for us; the first that fits decides.
 * PostgreSQL documentation, appendix "PostgreSQL Error Codes". */
static const struct {
	const char *prefix;
	enum err_kind kind;
} states[] = {
	{ "08", ERR_RETRY },     /* connection */
	{ "53300", ERR_RETRY },  /* too many connections */
	{ "53400", ERR_CONFIG }, /* all replication slots are in use */
	{ "53", ERR_RETRY },     /* memory, disk */
	{ "55006", ERR_BUSY },   /* the slot is active */
	{ "PH005", ERR_BUSY },   /* another executor has the partition */
	{ "57014", ERR_RETRY },  /* statement timeout */
	{ "57P", ERR_RETRY },    /* shutting down, starting up, crashed */
	{ "58", ERR_RETRY },     /* input and output */
	{ "40", ERR_RETRY },     /* serialization, deadlock */
	{ "26000", ERR_RETRY },  /* a prepared statement is gone */
	{ "25006", ERR_RETRY },  /* read-only: a standby that may be promoted */
	{ "42704",
	  ERR_LOST }, /* the slot, or the publication at that point of the WAL, is not there */
	{ "55000", ERR_LOST },   /* the slot cannot be used any more */
	{ "42501", ERR_CONFIG }, /* a right is missing */
	{ "28", ERR_CONFIG },    /* password, pg_hba */
	{ "3D000", ERR_CONFIG }, /* no such database */
	{ "42", ERR_CONFIG },
};

enum err_kind conn_classify(const char *sqlstate)
{
	if (!sqlstate || !*sqlstate)
		return ERR_RETRY;
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strncmp(sqlstate, states[i].prefix, strlen(states[i].prefix)) == 0)
			return states[i].kind;
	return ERR_FAIL;
}

/* libpq's texts end in newlines and may have several lines. */
static int fail(enum err_kind kind, const char *text, struct err *err)
{
	char *p;

	err_set(err, kind, "%s", text && *text ? text : "the connection was lost");
	while ((p = strpbrk(err->msg, "\n\t")) != NULL)
		*p = p[1] ? ' ' : '\0';
	return -1;
}

/* libpq gives no SQLSTATE for a connection that failed; the words are in the text. What a user has
 * to mend is told from what may pass by these; the first that fits decides, and adds what helps. */
static const struct {
	const char *words;
	enum err_kind kind;
	const char *help;
} refusals[] = {
	{ "too many connections", ERR_RETRY, "" },
	{ "too many clients", ERR_RETRY, "" },
	{ "connection slots", ERR_RETRY, "" },
	{ "the database system is", ERR_RETRY, "" },
	{ "is not currently accepting", ERR_RETRY, "" },
	{ "password authentication failed", ERR_CONFIG, "" },
	{ "no password supplied", ERR_CONFIG, "" },
	{ "no pg_hba.conf entry", ERR_CONFIG,
	  "; add a line for it to pg_hba.conf and run: SELECT pg_reload_conf()" },
	{ "unsupported startup parameter", ERR_CONFIG,
	  "; connect to PostgreSQL itself, not through a pooler" },
	{ "must be superuser or replication role", ERR_CONFIG, "; run: ALTER ROLE ... REPLICATION" },
	{ "permission denied to start WAL sender", ERR_CONFIG, "; run: ALTER ROLE ... REPLICATION" },
	{ "role \"", ERR_CONFIG, "" },
	{ "database \"", ERR_CONFIG, "" },
	{ "certificate", ERR_CONFIG, "" },
	{ "does not support SSL", ERR_CONFIG, "" },
	{ "authentication failed", ERR_CONFIG, "" },
};

/* How libpq begins when it cannot read the connection string itself. */
static const char *const unreadable[] = {
	"invalid ",
	"missing ",
	"unterminated ",
	"unexpected ",
	"forbidden value",
	"end of string",
	"extra key/value separator",
	"could not match ",
	"definition of service ",
};

/* Whether what stands in quotes at p is the name of an option, and not of what a user wrote. */
static bool is_name(const char *text, const char *p)
{
	static const char *const before[] = { "option ", "parameter: ", "service " };

	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
		size_t n = strlen(before[i]);

		if ((size_t)(p - text) >= n && strncmp(p - n, before[i], n) == 0)
			return true;
	}
	return false;
}

/* What is quoted from a string that was misread may be a part of its password; so may what stands
 * before the @ of a host's name. */
static void hide_quoted(struct strbuf *out, const char *text, bool misread)
{
	const char *p = text, *open, *end;

	while ((open = strchr(p, '"')) != NULL && (end = strchr(open + 1, '"')) != NULL) {
		struct str inside = { open + 1, (size_t)(end - open - 1) };
		const char *at = memrchr(inside.p, '@', inside.n);
		bool hidden = misread && !str_eq(inside, STR("=")) && !is_name(text, open);

		strbuf_str(out, (struct str){ p, (size_t)(open + 1 - p) });
		if (at == inside.p) /* an abstract socket */
			at = NULL;
		if (hidden || at)
			strbuf_lit(out, "***");
		p = hidden ? end : at ? at : inside.p;
		strbuf_str(out, (struct str){ p, (size_t)(end + 1 - p) });
		p = end + 1;
	}
	strbuf_str(out, str_c(p));
}

/* Connects once more, only to hear the SQLSTATE of the refusal: libpq puts it into the text when it
 * is told to be verbose, which it can be while it connects step by step. */
static void ask_why(const char *const *keys, const char *const *values, char state[6])
{
	PGconn *conn = PQconnectStartParams(keys, values, 1);
	PostgresPollingStatusType next = PGRES_POLLING_WRITING;
	int64_t end = clock_ms() + CONNECT_MS, left = CONNECT_MS;
	const char *at;

	PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
	while (PQstatus(conn) != CONNECTION_BAD && left > 0 && next != PGRES_POLLING_OK &&
	       next != PGRES_POLLING_FAILED) {
		struct pollfd pfd = { PQsocket(conn),
				      next == PGRES_POLLING_READING ? POLLIN : POLLOUT, 0 };

		if (poll(&pfd, 1, (int)left) > 0)
			next = PQconnectPoll(conn);
		left = end - clock_ms();
	}
	/* "FATAL:  28P01: the server's words" */
	for (at = PQerrorMessage(conn); (at = strstr(at, ":  ")) != NULL; at++)
		if (strspn(at + 3, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 && at[8] == ':')
			memcpy(state, at + 3, 5);
	PQfinish(conn);
}

/* What a server says in another language than English is told by its SQLSTATE. */
static void classify_connect(const char *text, const char *const *keys, const char *const *values,
			     struct err *err)
{
	size_t n = strlen(err->msg);
	char state[6] = "";

	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		if (strstr(text, refusals[i].words)) {
			err->kind = refusals[i].kind;
			snprintf(err->msg + n, sizeof(err->msg) - n, "%s", refusals[i].help);
			return;
		}
	if (strstr(text, ":  ")) /* it is the server that speaks */
		ask_why(keys, values, state);
	if (strcmp(state, "55000") != 0) /* the database takes no connections now */
		err->kind = conn_classify(state);
}

static int fail_connect(PGconn *conn, const char *const *keys, const char *const *values,
			struct err *err)
{
	const char *text = PQerrorMessage(conn);
	struct strbuf shown = { 0 };
	bool misread = false;

	for (size_t i = 0; i < sizeof(unreadable) / sizeof(unreadable[0]); i++)
		misread |= strncmp(text, unreadable[i], strlen(unreadable[i])) == 0;
	hide_quoted(&shown, text, misread);
	fail(ERR_RETRY, strbuf_cstr(&shown), err);
	strbuf_release(&shown);
	if (misread || strstr(err->msg, "***@")) {
		err->kind = ERR_CONFIG;
		err_add(err, "the connection string cannot be read%s",
			strncmp(values[5], "postgres", 8) == 0
				? " (@ : / ? # % of a password are written %40 %3A %2F %3F %23 %25)"
				: "");
	} else {
		classify_connect(text, keys, values, err);
	}
	return -1;
}

/* The warning that a publication was skipped must come (PostgreSQL 18), and what the user asked us
 * to make must be made. */
static const char *const pins =
	"SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; "
	"SET extra_float_digits = 3; SET bytea_output = 'hex'; SET statement_timeout = 0; "
	"SET idle_in_transaction_session_timeout = 0; SET lock_timeout = 0; "
	"SET search_path = pg_catalog; SET client_min_messages = 'warning'; "
	"SET default_transaction_read_only = off";

static int set(PGconn *conn, const char *sql, struct err *err)
{
	PGresult *res = conn_query(conn, err, sql, 0, NULL);

	PQclear(res);
	return res ? 0 : -1;
}

static int pin(PGconn *conn, enum conn_kind kind, struct err *err)
{
	const char *encoding = PQparameterStatus(conn, "server_encoding");
	bool ascii = encoding && strcmp(encoding, "SQL_ASCII") == 0;
	int version = PQserverVersion(conn);

	if (set(conn, pins, err))
		return -1;
	if (set(conn, ascii ? "SET client_encoding = 'SQL_ASCII'" : "SET client_encoding = 'UTF8'",
		err))
		return -1;
	if (version >= 170000 && set(conn, "SET transaction_timeout = 0", err))
		return -1;
	if (kind == CONN_SQL && version >= 140000)
		return set(conn, "SET idle_session_timeout = 0", err);
	return 0;
}

/* libpq would write them to standard error as they are. */
static void on_notice(void *user, const char *text)
{
	log_debug("PostgreSQL: %.*s", (int)strcspn(text, "\n"), text);
}

PGconn *conn_open(const char *conninfo, enum conn_kind kind, struct err *err)
{
	/* Later keywords win: the user may change what stands before dbname only. */
	const char *keys[] = { "fallback_application_name",
			       "connect_timeout",
			       "keepalives_idle",
			       "keepalives_interval",
			       "keepalives_count",
			       "dbname",
			       "replication",
			       "gssencmode",
			       NULL };
	const char *values[] = { "pgherald", CONNECT_TIMEOUT, "30",      "10", "3",
				 conninfo,   "database",      "disable", NULL };
	PGconn *conn;

	if (kind == CONN_SQL)
		keys[6] = NULL;
	conn = PQconnectdbParams(keys, values, 1);
	if (PQstatus(conn) != CONNECTION_OK) {
		fail_connect(conn, keys, values, err);
		PQfinish(conn);
		return NULL;
	}
	PQsetNoticeProcessor(conn, on_notice, NULL);
	if (pin(conn, kind, err)) {
		PQfinish(conn);
		return NULL;
	}
	return conn;
}

/* libpq keeps a pointer with a connection only for those who hear of its events. */
static int hear_nothing(PGEventId event, void *info, void *user)
{
	return 1;
}

void conn_stop_by(PGconn *conn, const _Atomic int *stop)
{
	if (PQregisterEventProc(conn, hear_nothing, "stop", NULL))
		PQsetInstanceData(conn, hear_nothing, (void *)(uintptr_t)stop);
}

/* Milliseconds that are left until *end, which comes nearer when it is time to stop; stop may be
 * NULL. Waits are cut short where they have to look at it. */
static int time_left(int64_t *end, const _Atomic int *stop)
{
	int64_t now = clock_ms();

	if (stop && *stop && *end - now > STOPPING_MS)
		*end = now + STOPPING_MS;
	if (stop && *end - now > LOOK_FOR_STOP_MS)
		return LOOK_FOR_STOP_MS;
	return (int)(*end - now);
}

/* Whether the answer to what was sent is there; false when the time is over. */
static bool await_answer(PGconn *conn)
{
	const _Atomic int *stop = PQinstanceData(conn, hear_nothing);
	int64_t end = clock_ms() + ANSWER_MS;

	while (PQisBusy(conn)) {
		struct pollfd pfd = { PQsocket(conn), POLLIN, 0 };
		int left = time_left(&end, stop);

		if (left <= 0)
			return false;
		if (poll(&pfd, 1, left) > 0 && !PQconsumeInput(conn))
			return true; /* the result says why */
	}
	return true;
}

/* The last of the results, as PQexec would return it. NULL when there is none in time. */
static PGresult *take_results(PGconn *conn)
{
	PGresult *last = NULL, *res;

	for (;;) {
		if (!await_answer(conn)) {
			PQclear(last);
			return NULL;
		}
		res = PQgetResult(conn);
		if (!res)
			return last;
		PQclear(last);
		last = res;
	}
}

PGresult *conn_answer(PGconn *conn, int sent, struct err *err)
{
	PGresult *res;
	ExecStatusType status;

	err->kind = ERR_NONE;
	if (!sent) {
		fail(ERR_RETRY, PQerrorMessage(conn), err);
		return NULL;
	}
	res = take_results(conn);
	if (!res) {
		err_set(err, ERR_RETRY, "no answer from PostgreSQL in %d s", ANSWER_MS / 1000);
		return NULL;
	}
	status = PQresultStatus(res);
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		fail(conn_classify(PQresultErrorField(res, PG_DIAG_SQLSTATE)),
		     PQresultErrorMessage(res), err);
	return res;
}

PGresult *conn_ask(PGconn *conn, struct err *err, const char *sql, int nparams,
		   const char *const *params)
{
	int sent = nparams ? PQsendQueryParams(conn, sql, nparams, NULL, params, NULL, NULL, 0)
			   : PQsendQuery(conn, sql);

	return conn_answer(conn, sent, err);
}

PGresult *conn_query(PGconn *conn, struct err *err, const char *sql, int nparams,
		     const char *const *params)
{
	struct err why;
	PGresult *res = conn_ask(conn, &why, sql, nparams, params);

	if (why.kind == ERR_NONE)
		return res;
	*err = why;
	PQclear(res);
	return NULL;
}
