/*
 * Connecting, in a thread of its own: libpq's connecting tries host after host, each for up to
 * connect_timeout, looks names up, and can neither be interrupted nor, step by step, go on from a
 * host that does not answer to the next. So whoever has other things to do leaves it alone with it.
 */
#ifndef PGHERALD_DIAL_H
#define PGHERALD_DIAL_H

#include "pg/conn.h"

struct dial;

/* Begins to open a CONN_SQL and a CONN_REPLICATION connection. When both are there, or one cannot
 * be, the eventfd `wake` is written to; a copy of it is used. NULL: no thread could be made. */
struct dial *dial_start(const char *conninfo, int wake, struct err *err) MUST_CHECK;

/* The same for a CONN_SQL connection alone. */
struct dial *dial_start_sql(const char *conninfo, int wake, struct err *err) MUST_CHECK;

/* 1: they are there and the caller's, who ends them with PQfinish; -1: they cannot be had, as
 * conn_open says it; *d is NULL then. 0: not yet. repl is not looked at where there is none. */
int dial_take(struct dial **d, PGconn **sql, PGconn **repl, struct err *err) MUST_CHECK;

/* Wants the connections no more. One that is almost there is waited for a moment, else the thread
 * is left behind and ends by itself. NULL is nothing. */
void dial_leave(struct dial *d);

#endif
