#include "sink/postgres_tables.h"

#include "base/mem.h"

#include <stdlib.h>

/* The server gives a statement up before we give up the server, so that none piles up behind
 * somebody's lock. */
#define STATEMENT_TIMEOUT "25s"

static const char *const event_types[] = { "jsonb", "json", "text", NULL };

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

int postgres_refused(const PGresult *res, struct err *err)
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

static PGresult *ask(PGconn *conn, struct err *err, const char *sql, int n, const char *const *params)
{
	PGresult *res = conn_query(conn, err, sql, n, params);

	if (!res && (err->kind == ERR_LOST || err->kind == ERR_FAIL))
		err->kind = ERR_CONFIG;
	if (!res && err->kind == ERR_BUSY)
		err->kind = ERR_RETRY;
	return res;
}

int postgres_run(PGconn *conn, struct err *err, const char *sql)
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
		if (postgres_run(p->conn, err, "RESET search_path"))
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
	return postgres_run(
		p->conn, err,
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
		failed = postgres_refused(res, err);
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

int postgres_tables(struct sink *s, struct err *err)
{
	struct postgres *p = s->state;

	if (name_tables(s, err) || have_table(p, err) || have_positions(p, err))
		return -1;
	return read_state(s, err) || look_for_loop(s, err) ? -1 : 0;
}
