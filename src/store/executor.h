/*
 * An executor of a subscription: claims a partition, fetches events, lets the handler work on them
 * in one transaction with the acknowledgement, and gives the partition back. So what the handler
 * does in the transaction happens exactly once, and all else at least once.
 *
 * It has a store of its own. A connection that breaks is opened again, after a growing pause.
 */
#ifndef PGHERALD_EXECUTOR_H
#define PGHERALD_EXECUTOR_H

#include "base/backoff.h"
#include "store/store.h"

/* Works on one event; `transaction` is open (PGconn * or sqlite3 *) and not the handler's to end.
 * NULL: it is done; otherwise why it is not, which the executor copies. */
typedef const char *executor_fn(void *user, const struct store_event *e, void *transaction);

struct executor {
	/* Set before the first step: */
	struct store store;
	const char *name, *owner;
	int64_t lease_ms;
	int batch; /* the most events of one transaction */
	int max_sleep_ms;
	bool listens;                              /* to be woken, where the store can */
	int (*begin)(void *user, struct err *err); /* once, when it is connected first */
	executor_fn *fn;
	void *user;

	/* Its own: */
	bool begun;
	struct store_lease lease;
	bool has_lease;
	int64_t claimed_ms;
	struct store_page page;
	size_t most;  /* of the next transaction; 0: the batch */
	bool drained; /* there was nothing behind the last batch */
	int sleep_ms;
	struct backoff backoff;
	int epoll, timer, wake;
	int socket; /* that we listen on, or -1 */
	_Atomic int stopped;
};

/* An executor for a store and a name with usual values, to be filled in. */
int executor_init(struct executor *e, const char *url, const char *name, struct err *err) MUST_CHECK;
void executor_release(struct executor *e); /* gives back what it has claimed */

/* Readable when a step has something to do. */
int executor_fd(const struct executor *e);

/* Waits up to timeout_ms (-1: as long as needed) and works on what there is, at most one batch.
 * Connecting goes on beside the steps. 0: go on, 1: it was stopped, -1: it cannot go on. */
int executor_step(struct executor *e, int timeout_ms, struct err *err) MUST_CHECK;

/* Lets the handler work on parked events, each in a transaction of its own, until one fails or none
 * is left. *done counts. 0, or -1. */
int executor_retry_parked(struct executor *e, int64_t *done, struct err *err) MUST_CHECK;

/* From any thread or signal handler. */
void executor_stop(struct executor *e);

#endif
