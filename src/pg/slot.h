/* Replication slots. */
#ifndef PGHERALD_SLOT_H
#define PGHERALD_SLOT_H

#include "pg/conn.h"

struct slot_state {
	bool exists;
	char plugin[64];
	char database[64];
	bool active;
	int active_pid;   /* 0: unknown */
	char holder[128]; /* the application that holds it, as far as we may see */
	uint64_t restart_lsn;
	uint64_t confirmed_lsn;
	char wal_status[16];   /* reserved, extended, unreserved, lost; "" before PostgreSQL 13 */
	char invalidation[64]; /* the reason, "" when there is none (17 and later) */
	bool temporary;
	bool two_phase; /* sends transactions when they are prepared (15) */
	bool synced; /* a standby's copy of the primary's slot, of use once it is promoted (17) */
};

/* Reads the slot's state on an SQL connection. exists is false when there is none. */
int slot_read(PGconn *sql, const char *name, struct slot_state *s, struct err *err) MUST_CHECK;

/* The names of all other slots for pgoutput in this database, as a list for people; "" for none. */
int slot_others(PGconn *sql, const char *name, char *names, size_t size, struct err *err) MUST_CHECK;

/* Whether the slot can be used for the database: LOST with the reason and the mend when it was
 * invalidated, CONFIG when it belongs to another plugin or database or sends what is not committed,
 * BUSY when it is active or waits for its standby to be promoted. */
int slot_check(const struct slot_state *s, const char *name, const char *database,
	       struct err *err) MUST_CHECK;

/* Asks for a slot on a replication connection, without an exported snapshot. PostgreSQL makes it
 * when all transactions have ended that run at this moment, so the answer may take long: */
int slot_create(PGconn *repl, const char *name, bool temporary, struct err *err) MUST_CHECK;

/* 1: the slot is there, and begins at the LSN; 0: not yet. Does not wait: the connection's socket
 * is readable when there is something to find. */
int slot_created(PGconn *repl, const char *name, uint64_t *consistent_lsn, struct err *err) MUST_CHECK;

/* Whom the server waits for: a text for people, "" when nobody is seen. */
void slot_blockers(PGconn *sql, char *who, size_t size);

/* Gives up on a slot that was asked for: the server would go on even without its client. */
void slot_cancel(PGconn *repl);

/* Moves an unused slot forward; everything before is given up. */
int slot_advance(PGconn *sql, const char *name, uint64_t lsn, struct err *err) MUST_CHECK;

int slot_drop(PGconn *sql, const char *name, struct err *err) MUST_CHECK;

#endif
