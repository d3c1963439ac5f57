/*
 * The event store in PostgreSQL, for those who look after it. Applications use its SQL functions.
 */
#ifndef PGHERALD_STORE_POSTGRES_H
#define PGHERALD_STORE_POSTGRES_H

#include "pg/conn.h"

struct store_place {
	const char *schema;
	const char *stream_id_type; /* "text" or "uuid", for a store that is made */
};

/* Makes the store or brings it up to date; *applied is the number of migrations that were missing.
 * Several may do it at once: one does the work, the others wait for it. CONFIG where a right is
 * missing or the store is newer than this program. */
int store_install(PGconn *sql, struct store_place place, int *applied, struct err *err) MUST_CHECK;

/* One statement with "herald" standing for the schema. Like conn_query; CONFIG, and what to do,
 * where there is no store. */
PGresult *store_query(PGconn *sql, struct store_place place, struct err *err, const char *text,
		      int nparams, const char *const *params) MUST_CHECK;

#endif
