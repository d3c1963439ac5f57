/*
 * A subscription of the event store, delivered: what capture.h is for the log. One thread calls
 * everything here.
 *
 * One partition at a time: it is claimed, its events are handed to the outputs, and what all of
 * them have taken is acknowledged. While outputs are slow the lease is renewed. When it is lost,
 * the outputs are ended and all begins anew with the next claim; what had been sent and not
 * acknowledged comes again then, with the same ids, here or in another process.
 *
 * An event's position is its place in the feed, as the LSN. The outputs of two partitions are two
 * origins, so what a destination holds of one is not taken for the other's.
 *
 * Without a name (--follow) the feed itself is read, and nothing is remembered.
 */
#ifndef PGHERALD_SUBSCRIPTION_H
#define PGHERALD_SUBSCRIPTION_H

#include "conf/settings.h"

struct subscription;

/* The settings are borrowed until subscription_close. Nothing is connected yet. */
struct subscription *subscription_open(const struct settings *s, struct err *err) MUST_CHECK;

/* Does what can be done now, waiting for something to do. Returns 1 when the end is reached (limit,
 * subscription_stop), 0 to go on, -1 when it cannot. */
int subscription_step(struct subscription *s, struct err *err) MUST_CHECK;

/* Drain, acknowledge, give the partition back. From any thread and from signal handlers. */
void subscription_stop(struct subscription *s);

/* NULL is nothing. */
void subscription_close(struct subscription *s);

#endif
