/* The tables of the PostgreSQL destination: found, checked, made, read. */
#ifndef PGHERALD_POSTGRES_TABLES_H
#define PGHERALD_POSTGRES_TABLES_H

#include "pg/conn.h"
#include "sink/sink.h"

struct postgres {
	PGconn *conn;
	struct strbuf schema, table, positions; /* as they are */
	struct strbuf quoted, quoted_positions; /* with schema and quotes */
	struct strbuf own, own_positions;       /* schema.table, as batch_table has them */
	bool captured;                          /* this is the database that events come from */
	bool jsonb;
	bool letters;           /* dead letters, of many writers, in no order: without a position */
	int32_t writer;         /* this output's number in the table of positions */
	struct position stored; /* what stands there */
	struct strbuf sql, copy;
};

/* Names and makes the tables, and reads what is remembered of this writer. */
int postgres_tables(struct sink *s, struct err *err) MUST_CHECK;

int postgres_run(PGconn *conn, struct err *err, const char *sql) MUST_CHECK;

/* Fills err from a result that failed; REJECT for what lies in the row. Returns -1. */
int postgres_refused(const PGresult *res, struct err *err);

#endif
