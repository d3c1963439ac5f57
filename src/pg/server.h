/* What a server says of itself. */
#ifndef PGHERALD_SERVER_H
#define PGHERALD_SERVER_H

#include "pg/conn.h"

struct server_identity {
	uint64_t system_id;
	uint32_t timeline;
	uint64_t xlogpos; /* end of the WAL flushed to disk */
};

/* IDENTIFY_SYSTEM, on a replication connection. */
int server_identify(PGconn *repl, struct server_identity *id, struct err *err) MUST_CHECK;

/* Where `timeline` left the older timeline `before`: LSNs up to there are the same on both. LOST
 * when it did not. On a replication connection. */
int server_fork(PGconn *repl, uint32_t timeline, uint32_t before, uint64_t *fork,
		struct err *err) MUST_CHECK;

/* wal_sender_timeout in milliseconds, 0 for none; on an SQL connection. */
int server_sender_timeout(PGconn *sql, int *ms, struct err *err) MUST_CHECK;

/* Whether commits wait for what the stream of this process of the server confirms, because it is
 * one of synchronous_standby_names; on an SQL connection. */
int server_awaits(PGconn *sql, int sender_pid, bool *awaits, struct err *err) MUST_CHECK;

#endif
