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
	const char *mend; /* SQL, or "" */
};

/* Runs all checks and gives each finding to fn (its strings live until fn returns). Returns -1 only
 * when the server cannot be asked at all. */
int preflight_run(const char *conninfo, const char *slot, const char *publication,
		  void (*fn)(void *user, const struct preflight_finding *f), void *user,
		  struct err *err) MUST_CHECK;

#endif
