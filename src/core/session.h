/*
 * One connection's worth of capturing: an SQL connection for the catalog, the slot and the
 * publication, and the replication stream.
 */
#ifndef PGHERALD_SESSION_H
#define PGHERALD_SESSION_H

#include "core/fanout.h"
#include "pg/dial.h"
#include "pg/stream.h"

struct session {
	struct dial *dial; /* while it is being connected */
	PGconn *sql;
	PGconn *repl; /* until the stream has it */
	struct stream *stream;
	bool creating;          /* the slot: the server has been asked for it */
	int64_t say_ms;         /* when to tell whom that waits for */
	uint64_t start;         /* where the stream begins; everything before is taken */
	uint64_t confirmed;     /* what the slot itself had been told when the session began */
	uint64_t server_lsn;    /* the server's end of WAL when the session began */
	int sender_timeout_ms;  /* wal_sender_timeout; 0: none */
	bool text_is_unchecked; /* the database is SQL_ASCII */
	uint32_t seen;          /* the last transaction that session_see has seen */
	uint32_t looks;         /* how often it has asked the server */
	struct strbuf snapshot; /* what the server told it last */
	int sender_pid;         /* the server's process that sends the stream */
	bool standby_said;      /* that commits wait for us */
};

/* What a session is for, and what was before it. */
struct session_past {
	const struct settings *settings;
	struct source *source; /* id, database and version are filled in or, later, compared */
	struct arena *arena;   /* for source's strings */
	bool connected; /* there was a session: the slot must exist, the server be the same */
	const struct fanout *outputs; /* for session_start: what they hold tells of gaps */
	bool was_busy;      /* since then another process has had the slot, as a standby does */
	bool binary;        /* ask for binary values */
	uint64_t confirmed; /* what has been taken by all; 0 when nothing is known */
	uint64_t delivered; /* LSN of the last event that was handed on */
	const _Atomic int *stop; /* checked in long waits */
	int wake;                /* an eventfd: session_open has got on */
};

/* Connects and learns which server it is: 1 when that is done, 0 when it goes on, to be called
 * again after the wake-up. BUSY when another process uses the slot. A session that is all zeroes,
 * or closed, is one to open. */
int session_open(struct session *s, const struct session_past *past, struct err *err) MUST_CHECK;

/* Checks or creates publication and slot, starts the stream: 1 when that is done, 0 while the server
 * makes the slot, to be called again when session_fd is readable and now and then. The outputs have
 * been opened before: only who is about to have the slot may look at what they hold. */
int session_start(struct session *s, const struct session_past *past, struct err *err) MUST_CHECK;

/* The socket on which the server speaks next, of a session that was opened. */
int session_fd(const struct session *s);

/* Waits until what the transaction did can be seen on the SQL connection, as it has to be before
 * that is asked what the transaction made; not where it cannot be seen because its commit waits for
 * us, as one of synchronous_standby_names. RETRY after a while, and when *stop is set. xid 0 is none. */
int session_see(struct session *s, uint32_t xid, const _Atomic int *stop, struct err *err) MUST_CHECK;

/* Fills in what only the catalog knows of a relation. */
int session_describe(struct session *s, struct relation *rel, struct arena *arena,
		     struct err *err) MUST_CHECK;

/* Its types again, where composite ones have changed; see catalog_retype. Asks only when
 * session_see has asked since they were read: all that it had seen by then was in them. */
int session_retype(struct session *s, struct relation *rel, struct err *err) MUST_CHECK;

/* Category and id of an entry's stream; see catalog_stream. */
int session_stream(struct session *s, const struct relation *rel, struct str number,
		   struct arena *arena, struct str *category, struct str *id,
		   struct err *err) MUST_CHECK;

/* Calls fn for each table of the publication; see catalog_tables. */
int session_tables(struct session *s, const struct settings *settings,
		   int (*fn)(void *user, const struct relation *rel, struct err *err), void *user,
		   struct err *err) MUST_CHECK;

/* Checks that the publication is still there, and appends what it lacks; see publish_lacks. */
int session_check_publication(struct session *s, const struct settings *settings,
			      struct strbuf *lacks, struct err *err) MUST_CHECK;

void session_close(struct session *s);

#endif
