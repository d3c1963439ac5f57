/*
 * Connections to PostgreSQL. Everything libpq takes is a conninfo here. Each session is pinned so
 * that no role or database setting can change a value, end a long wait or hide a warning:
 * TimeZone=UTC, DateStyle=ISO, IntervalStyle=postgres, extra_float_digits=3, bytea_output=hex,
 * lc_monetary as it is, all timeouts off, client_min_messages=warning, client_encoding=UTF8
 * (SQL_ASCII where the database is SQL_ASCII: the server would refuse rows that are not UTF-8).
 */
#ifndef PGHERALD_CONN_H
#define PGHERALD_CONN_H

#include "base/err.h"
#include "base/str.h"

#include <libpq-fe.h>

enum conn_kind { CONN_SQL, CONN_REPLICATION };

/* Opens, pins and returns a connection that the caller ends with PQfinish. CONN_REPLICATION adds
 * replication=database and gssencmode=disable (the stream is read from the socket itself).
 * Failures: CONFIG for a wrong conninfo, password, database or missing right; RETRY for a server
 * that is away, starting or full. Messages never hold a password. */
PGconn *conn_open(const char *conninfo, enum conn_kind kind, struct err *err) MUST_CHECK;

/* From now on waits for answers on the connection end a second after *stop was set. */
void conn_stop_by(PGconn *conn, const _Atomic int *stop);

/* Runs one statement with text parameters (NULL is null); nparams 0 uses the simple protocol, so
 * that replication commands pass. Returns a result that the caller clears. RETRY when there is no
 * answer in 30 s, or when stopped: the connection is of no use then. */
PGresult *conn_query(PGconn *conn, struct err *err, const char *sql, int nparams,
		     const char *const *params) MUST_CHECK;

/* The same for who wants to know why the server refused: a result then, too, with an error kind in
 * err, which is ERR_NONE when all is well. NULL: the connection is of no use any more. */
PGresult *conn_ask(PGconn *conn, struct err *err, const char *sql, int nparams,
		   const char *const *params) MUST_CHECK;

/* The same for what one of libpq's PQsend functions has sent, which returned `sent`. */
PGresult *conn_answer(PGconn *conn, int sent, struct err *err);

/* The err kind for an SQLSTATE ("" or NULL: the connection broke): 57P0x, 08xxx, 53300 ...: RETRY;
 * 55006, PH005: BUSY; 42501, 28xxx, 3D000 ...: CONFIG; else FAIL. */
enum err_kind conn_classify(const char *sqlstate);

#endif
