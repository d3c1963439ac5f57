/*
 * The store's SQL: the files of src/store/sql/ as they are, put into the program at build time by
 * script/embed-sql. Each is one migration, run once, in order, in a transaction of its own.
 */
#ifndef PGHERALD_MIGRATIONS_H
#define PGHERALD_MIGRATIONS_H

#include "base/err.h"
#include "base/strbuf.h"

struct migration {
	int number; /* 0 behind the last one */
	const char *name;
	const char *sql;
};

extern const struct migration migrations[];

/* The number of the last one. */
int migrations_last(void);

/* CONFIG unless it can stand in the SQL as it is: lower-case letters, digits and underscores. */
int migrations_check_schema(const char *schema, struct err *err) MUST_CHECK;

/* Appends SQL with "herald" at the beginning of each word replaced by a checked schema. */
void migrations_write(struct strbuf *out, const char *sql, const char *schema);

#endif
