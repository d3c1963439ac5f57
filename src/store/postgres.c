#include "store/postgres.h"

#include "store/migrations.h"

#include <stdlib.h>

/* The key of the advisory lock that one who installs holds: "pgherald". */
#define INSTALL_LOCK "8099001168806961252"

static int run(PGconn *sql, const char *text, struct err *err)
{
	PGresult *res = conn_query(sql, err, text, 0, NULL);

	PQclear(res);
	return res ? 0 : -1;
}

static PGresult *query(PGconn *sql, struct store_place place, struct err *err, const char *text,
		       int nparams, const char *const *params)
{
	struct strbuf b = { 0 };
	PGresult *res;

	if (migrations_check_schema(place.schema, err))
		return NULL;
	migrations_write(&b, text, place.schema);
	res = conn_query(sql, err, strbuf_cstr(&b), nparams, params);
	strbuf_release(&b);
	return res;
}

/* The number of the last migration that the store has; 0 where there is none. */
static int read_version(PGconn *sql, struct store_place place, int *version, struct err *err)
{
	PGresult *res = query(sql, place, err, "SELECT to_regclass('herald.migration') IS NOT NULL",
			      0, NULL);
	bool there = res && *PQgetvalue(res, 0, 0) == 't';

	PQclear(res);
	*version = 0;
	if (!res || !there)
		return res ? 0 : -1;
	res = query(sql, place, err, "SELECT max(number) FROM herald.migration", 0, NULL);
	if (res)
		*version = (int)strtol(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return res ? 0 : -1;
}

static int apply(PGconn *sql, struct store_place place, const struct migration *m, struct err *err)
{
	struct strbuf b = { 0 };
	int failed;

	/* As one text it is one transaction. */
	strbuf_printf(&b, "SET LOCAL pgherald.stream_id_type = '%s';\n", place.stream_id_type);
	migrations_write(&b, m->sql, place.schema);
	failed = run(sql, "BEGIN", err) || run(sql, strbuf_cstr(&b), err) || run(sql, "COMMIT", err);
	strbuf_release(&b);
	if (!failed)
		return 0;
	if (PQtransactionStatus(sql) != PQTRANS_IDLE) {
		struct err other;

		if (run(sql, "ROLLBACK", &other))
			err_add(err, "the connection was lost");
	}
	return err_add(err, "migration %03d-%s", m->number, m->name);
}

static int apply_missing(PGconn *sql, struct store_place place, int *applied, struct err *err)
{
	int version;

	if (read_version(sql, place, &version, err))
		return -1;
	if (version > migrations_last())
		return err_set(err, ERR_CONFIG,
			       "the store in schema %s has version %d and this program knows %d: "
			       "use a newer pgherald",
			       place.schema, version, migrations_last());
	for (const struct migration *m = migrations; m->number; m++) {
		if (m->number <= version)
			continue;
		if (apply(sql, place, m, err))
			return -1;
		++*applied;
	}
	return 0;
}

int store_install(PGconn *sql, struct store_place place, int *applied, struct err *err)
{
	struct err ignored;
	int failed;

	*applied = 0;
	if (PQserverVersion(sql) < 130000)
		return err_set(err, ERR_CONFIG, "the event store needs PostgreSQL 13 or later");
	if (migrations_check_schema(place.schema, err) ||
	    run(sql, "SELECT pg_advisory_lock(" INSTALL_LOCK ")", err))
		return -1;
	failed = apply_missing(sql, place, applied, err);
	if (run(sql, "SELECT pg_advisory_unlock(" INSTALL_LOCK ")", &ignored))
		return failed; /* the lock goes with the connection */
	return failed;
}

PGresult *store_query(PGconn *sql, struct store_place place, struct err *err, const char *text,
		      int nparams, const char *const *params)
{
	struct err other;
	PGresult *res;
	int version;

	PQsetErrorContextVisibility(sql, PQSHOW_CONTEXT_NEVER); /* only where in our SQL it was */
	res = query(sql, place, err, text, nparams, params);
	if (!res && err->kind != ERR_RETRY && PQtransactionStatus(sql) == PQTRANS_IDLE &&
	    read_version(sql, place, &version, &other) == 0 && version == 0)
		err_set(err,
			ERR_CONFIG, "there is no event store in schema %s of database \"%s\": run pgherald store init",
			place.schema, PQdb(sql));
	return res;
}
