/*
 * The server sends each row with a send() of its own, and a reader that wakes up for each makes both
 * sides slow. So while data flows the reader takes all that is there and then naps, long enough to
 * find many rows. Behind a backlog naps grow: rows that find TCP's window full wait in the server's
 * own buffer and leave as one packet. They grow as long as that buffer has room, which the server's
 * times of sending tell, up to a part of what the stream is late. Measured by `script/bench capture`.
 */
#ifndef PGHERALD_NAP_H
#define PGHERALD_NAP_H

#include <stdbool.h>
#include <stdint.h>

/* All in microseconds; times by the server's clock. {0} is the beginning of a stream. */
struct nap {
	int64_t length; /* of the last nap */
	int64_t sent;   /* what came last */
	int64_t late;   /* from its commit to its sending */
	int64_t from;   /* the last nap's last quarter */
	int64_t to;
	bool kept_on; /* the server sent something in it */
};

/* A message came; `committed` is the time of its transaction's commit. */
static inline void nap_heard(struct nap *n, int64_t sent, int64_t committed)
{
	n->sent = sent;
	n->late = sent - committed;
	n->kept_on |= sent >= n->from && sent < n->to;
}

/* All that was there has been read: how long to nap now, at most `most` where the least is less. */
int64_t nap_next(struct nap *n, int64_t most);

#endif
