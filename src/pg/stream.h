/*
 * The replication stream: libpq connects and authenticates; from the START_REPLICATION query on
 * the protocol is spoken here, on the socket itself (through OpenSSL where libpq set up TLS), with
 * a receive buffer large enough that one system call brings hundreds of rows.
 *
 * Sources: PostgreSQL documentation, "Streaming Replication Protocol" and "Message Formats".
 *
 *   server  d n4 'w' start8 end8 time8 payload     WAL data
 *           d n4 'k' end8 time8 reply1             keepalive
 *   client  d 38 'r' written8 flushed8 applied8 time8 reply1   status; LSNs are last byte + 1
 *
 * Used by one thread. All calls but stream_open and stream_finish return at once.
 */
#ifndef PGHERALD_STREAM_H
#define PGHERALD_STREAM_H

#include "base/err.h"
#include "base/str.h"

#include <libpq-fe.h>

struct stream_start {
	const char *slot;
	uint64_t lsn; /* 0: where the slot stands */
	const char *const *publications;
	size_t npublications;
	bool messages;           /* logical messages (PostgreSQL 14) */
	bool binary;             /* values in binary form (PostgreSQL 14) */
	const _Atomic int *stop; /* ends the wait for the stream's begin */
};

enum stream_kind { STREAM_NOTHING, STREAM_DATA, STREAM_KEEPALIVE, STREAM_END };

struct stream_message {
	enum stream_kind kind;
	uint64_t start; /* DATA: LSN of the message */
	uint64_t end;   /* the server's end of WAL; KEEPALIVE: everything before it has been sent */
	int64_t time;   /* the server's clock, microseconds since 1970 */
	bool reply;     /* KEEPALIVE: an answer is wanted at once */
	struct str payload; /* DATA: valid until the next stream_fill */
};

struct stream;

/* In the message of a failure: binary values were asked for, and a type has none. */
#define STREAM_NO_BINARY "no binary output function"

/* Starts replication on an open CONN_REPLICATION connection, which the stream owns from here on
 * (also on failure). */
struct stream *stream_open(PGconn *conn, const struct stream_start *start, struct err *err) MUST_CHECK;

/* The socket, and the poll(2) events to wait for on it. */
int stream_fd(const struct stream *s);
short stream_poll_events(const struct stream *s);

/* Whether bytes wait in TLS's own buffer, where poll cannot see them. */
bool stream_pending(const struct stream *s);

/* For how long to leave the server alone at most, in microseconds: over TCP it fills its own buffer
 * of megabytes, a unix socket holds a few hundred rows. */
int64_t stream_nap_us(const struct stream *s);

/* Receives what is there. Returns bytes received, 0 when there is nothing now, -1 on failure.
 * Messages returned earlier end their life. */
ssize_t stream_fill(struct stream *s, struct err *err) MUST_CHECK;

/* The next whole message in the buffer; STREAM_NOTHING when another stream_fill is needed.
 * A server's error comes as failure with its kind; a warning that a publication was skipped (18)
 * as ERR_LOST. */
int stream_next(struct stream *s, struct stream_message *m, struct err *err) MUST_CHECK;

/* Tells the server that everything before lsn has been taken, and asks for an answer. What the
 * socket does not take now is kept and sent by later calls of stream_flush. */
int stream_status(struct stream *s, uint64_t lsn, bool reply, struct err *err) MUST_CHECK;
int stream_flush(struct stream *s, struct err *err) MUST_CHECK;

/* Ends the copy after a last status, waits up to timeout_ms for the server to have read it. */
void stream_finish(struct stream *s, int timeout_ms);

void stream_close(struct stream *s);

#endif
