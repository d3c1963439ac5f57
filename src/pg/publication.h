/* Publications: what PostgreSQL sends. */
#ifndef PGHERALD_PUBLICATION_H
#define PGHERALD_PUBLICATION_H

#include "event/event.h"
#include "pg/conn.h"

struct publication_state {
	bool exists;
	bool ours;        /* made by pgherald, as its comment says */
	uint16_t actions; /* ACTION_BITs that it publishes */
};

int publication_read(PGconn *sql, const char *name, struct publication_state *p,
		     struct err *err) MUST_CHECK;

/* One table of a publication that is to be made. */
struct publication_table {
	struct str schema;
	struct str name;
};

/* Makes a publication of these actions (comma list: "insert, update") for the tables, or for all
 * tables when ntables is 0, and marks it as made by pgherald. With via_root (13) what happens in
 * partitions comes under the name of the partitioned table. That it exists already (two
 * processes raced) is no failure. CONFIG names a missing table or right, and the SQL to run. */
int publication_create(PGconn *sql, const char *name, const struct publication_table *tables,
		       size_t ntables, bool via_root, const char *actions,
		       struct err *err) MUST_CHECK;

/* Calls fn for each table that is stored and logged, but has no events under its name: it is not in
 * the publication, or, with by_leaves, its partitions are under theirs. */
int publication_lacking(PGconn *sql, const char *name,
			void (*fn)(void *user, struct str schema, struct str table, bool by_leaves),
			void *user, struct err *err) MUST_CHECK;

int publication_drop(PGconn *sql, const char *name, struct err *err) MUST_CHECK;

#endif
