/* Calls of the event store's SQL functions: parameters, prepared statements, what an SQLSTATE means. */
#include "pg/conn.h"
#include "store/migrations.h"
#include "store/postgres.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MOST_PARAMS 8

static int64_t member(const char *json, const char *name)
{
	const char *at = json ? strstr(json, name) : NULL;

	return at ? strtoll(at + strlen(name), NULL, 10) : 0;
}

/* The server's words without "ERROR:"; a conflict's detail is for programs. */
static void quote(const struct store *s, const PGresult *res, struct err *err)
{
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
	bool has_detail = detail && s->reason != STORE_CONFLICT;

	if (!text)
		return; /* the connection broke */
	err_set(err, err->kind, "%s%s%s%s%s", text, has_detail ? ": " : "",
		has_detail ? detail : "", hint ? ". " : "", hint ? hint : "");
	for (char *p = err->msg; (p = strchr(p, '\n')) != NULL; p++)
		*p = ' ';
}

/* What the server's SQLSTATE means here. */
static void explain(struct store *s, const PGresult *res, struct err *err)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);

	state = state ? state : "";
	if (strncmp(state, "PH00", 4) == 0)
		s->reason = (enum store_reason)(state[4] - '0');
	else if (strcmp(state, "23505") == 0)
		s->reason = STORE_ID_IN_USE;
	else if (strncmp(state, "22", 2) == 0)
		s->reason = STORE_NOT_UNDERSTOOD;
	if (s->reason == STORE_CONFLICT) {
		s->expected = member(detail, "\"expected\": ");
		s->actual = member(detail, "\"actual\": ");
	}
	quote(s, res, err);
	if (strcmp(state, "3F000") == 0 || strcmp(state, "42883") == 0 || strcmp(state, "42P01") == 0)
		err_set(err,
			ERR_CONFIG, "there is no event store of this version in schema %s of database \"%s\": run pgherald store init",
			s->schema, PQdb(postgres_conn(s)));
}

static PGresult *run_once(struct store *s, struct err *err, const char *sql, int n,
			  const char *const *params)
{
	struct strbuf b = { 0 };
	PGresult *res;

	migrations_write(&b, sql, s->schema);
	res = conn_ask(postgres_conn(s), err, strbuf_cstr(&b), n, params);
	strbuf_release(&b);
	return res;
}

/* Prepares a statement when it comes for the first time: to parse and plan one is a tenth of what
 * the short ones cost. They are told apart by where their text is. */
static PGresult *run_prepared(struct store *s, struct err *err, const char *sql, int n,
			      const char *const *params)
{
	struct postgres *p = s->state;
	struct strbuf b = { 0 };
	PGresult *res;
	char name[24];
	size_t i = 0;

	while (i < p->nprepared && p->prepared[i] != sql)
		i++;
	snprintf(name, sizeof(name), "pgherald_%zu", i);
	if (i == p->nprepared) {
		migrations_write(&b, sql, s->schema);
		res = conn_answer(p->conn, PQsendPrepare(p->conn, name, strbuf_cstr(&b), 0, NULL),
				  err);
		strbuf_release(&b);
		if (err->kind != ERR_NONE)
			return res;
		PQclear(res);
		p->prepared[p->nprepared++] = sql;
	}
	return conn_answer(p->conn, PQsendQueryPrepared(p->conn, name, n, params, NULL, NULL, 0),
			   err);
}

static bool is_state(const PGresult *res, const char *state)
{
	const char *is = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return is && strcmp(is, state) == 0;
}

/* Runs SQL in which "herald" stands for the schema. Returns a result that the caller clears. */
static PGresult *query(struct store *s, struct err *err, const char *sql, int n,
		       const char *const *params)
{
	struct postgres *p = s->state;
	struct err why;
	PGresult *res = (n && p->direct && p->nprepared < POSTGRES_PREPARED
				 ? run_prepared
				 : run_once)(s, &why, sql, n, params);

	if (is_state(res, "26000")) { /* who shares the connection has said DEALLOCATE ALL */
		p->direct = false;
		if (PQtransactionStatus(p->conn) == PQTRANS_IDLE) {
			PQclear(res);
			res = run_once(s, &why, sql, n, params);
		}
	}
	if (why.kind == ERR_NONE)
		return res;
	*err = why;
	p->silent = !res;
	if (res)
		explain(s, res, err);
	PQclear(res);
	return NULL;
}

/* The same with parameters as `types` says. */
static PGresult *ask_list(struct store *s, struct err *err, const char *sql, const char *types,
			  va_list ap)
{
	const char *params[MOST_PARAMS];
	char numbers[MOST_PARAMS][24];
	int n = 0;

	for (; types[n]; n++) {
		if (types[n] == 's') {
			params[n] = va_arg(ap, const char *);
			continue;
		}
		snprintf(numbers[n], sizeof(numbers[n]), "%" PRId64, va_arg(ap, int64_t));
		params[n] = numbers[n];
	}
	return query(s, err, sql, n, params);
}

PGresult *postgres_ask(struct store *s, struct err *err, const char *sql, const char *types, ...)
{
	PGresult *res;
	va_list ap;

	va_start(ap, types);
	res = ask_list(s, err, sql, types, ap);
	va_end(ap);
	return res;
}

int64_t postgres_integer(const PGresult *res, int row, int column)
{
	return strtoll(PQgetvalue(res, row, column), NULL, 10);
}

int postgres_call(struct store *s, struct err *err, int64_t *value, const char *sql,
		  const char *types, ...)
{
	PGresult *res;
	va_list ap;

	va_start(ap, types);
	res = ask_list(s, err, sql, types, ap);
	va_end(ap);
	if (!res)
		return -1;
	*value = 0;
	if (PQntuples(res) && PQnfields(res))
		*value = *PQgetvalue(res, 0, 0) == 't' ? 1 : postgres_integer(res, 0, 0);
	PQclear(res);
	return 0;
}
