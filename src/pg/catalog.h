/* What only the catalog knows of relations and types. All on an SQL connection. */
#ifndef PGHERALD_CATALOG_H
#define PGHERALD_CATALOG_H

#include "base/strbuf.h"
#include "event/event.h"
#include "pg/conn.h"

/* Looks up types by OID and whatever they are built of, and adds them to `types`; those it has
 * already (or are built in) are left. A type that the catalog does not know becomes a TYPE_TEXT
 * one. A number of queries bounded by the depth of nesting. */
int catalog_types(PGconn *sql, struct types *types, const uint32_t *oids, size_t n,
		  struct err *err) MUST_CHECK;

/* 1: what the transaction did can be seen, 0: not yet. A server sends a transaction as soon as its
 * commit is on disk, which is before others see it: long before, where the commit waits for a
 * synchronous standby. `snapshot` gets what could be seen when the server was asked. */
int catalog_sees(PGconn *sql, uint32_t xid, struct strbuf *snapshot, struct err *err) MUST_CHECK;

/* Whether a transaction that is known to be committed could be seen then. An empty one saw nothing. */
bool catalog_saw(struct str snapshot, uint32_t xid);

/* Fills in a relation: the types of its columns (user-defined ones into rel->types), their names
 * with typmod, and for REPLICA IDENTITY FULL which columns are the primary key. Strings are put
 * into the arena. */
int catalog_relation(PGconn *sql, struct relation *rel, struct arena *arena,
		     struct err *err) MUST_CHECK;

/* Looks the types of the relation's columns up again if composite ones among them have changed
 * since they were. After a failure the relation cannot be used any more. */
int catalog_retype(PGconn *sql, struct relation *rel, struct err *err) MUST_CHECK;

/* Whether the relation is a table of an event store, and which: rel->kind and rel->store. A store is
 * known by the trigger that gives its events their positions, so its schema may have any name. */
int catalog_store(PGconn *sql, struct relation *rel, struct err *err) MUST_CHECK;

/* Category and id of a stream of the store that this relation is a table of, put into the arena.
 * FAIL when there is none with this number. */
int catalog_stream(PGconn *sql, const struct relation *rel, struct str number, struct arena *arena,
		   struct str *category, struct str *id, struct err *err) MUST_CHECK;

/* Whether a schema is an event store. */
int catalog_is_store(PGconn *sql, struct str schema, bool *is_store, struct err *err) MUST_CHECK;

/* Whether a table is partitioned. */
int catalog_is_partitioned(PGconn *sql, struct str schema, struct str table, bool *is,
			   struct err *err) MUST_CHECK;

/* Calls fn for each table of a publication that is not an event store's, with its names and those
 * of its columns, and which of these are the key; nothing else is filled in. Ends with the first
 * that fails. */
int catalog_tables(PGconn *sql, const char *publication,
		   int (*fn)(void *user, const struct relation *rel, struct err *err), void *user,
		   struct err *err) MUST_CHECK;

#endif
