/*
 * The doctor: whether streaming can start, and what will surprise later. Each check is a row of a
 * table; each finding says what is so and, where something can be done, the SQL that does it.
 */
#ifndef PGHERALD_PREFLIGHT_H
#define PGHERALD_PREFLIGHT_H

#include "pg/conn.h"

enum preflight_level { PREFLIGHT_OK, PREFLIGHT_INFO, PREFLIGHT_WARN, PREFLIGHT_FAIL };

struct preflight_finding {
	const char *check; /* "wal_level" */
	enum preflight_level level;
	const char *text;
	const char *mend; /* SQL statements, each on lines of its own with its semicolon, or "" */
};

struct preflight_callback {
	/* The finding's strings live until this returns. */
	void (*finding)(void *user, const struct preflight_finding *f);
	void *user;
};

/* Runs all checks and reports what they find. Changes nothing. Fails when the server cannot be
 * asked, which is the last finding then. */
int preflight_run(const char *conninfo, const char *slot, const char *publication,
		  const struct preflight_callback *cb, struct err *err) MUST_CHECK;

/* Runs one check that is a query, by its name, on a connection that is open. */
int preflight_check(PGconn *sql, const char *check, const char *slot, const char *publication,
		    const struct preflight_callback *cb, struct err *err) MUST_CHECK;

#endif
