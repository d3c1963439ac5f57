/*
 * The feed of an event store as subscribe reads it: one partition at a time of a subscription, or
 * the events that it has parked, or, without a subscription's name, everything behind a position.
 * The last two are one partition that nobody else wants, and no lease. One thread, one connection.
 *
 * All that can fail returns -1; err says RETRY where the connection broke, and feed_lost_lease
 * whether it was the lease.
 */
#ifndef PGHERALD_FEED_H
#define PGHERALD_FEED_H

#include "conf/settings.h"
#include "store/store.h"

struct feed {
	struct store store;
	const struct settings *settings;
	const char *owner;        /* who we are, for people */
	struct store_identity is; /* of the store, from the first connection on */
	bool known;
	int socket; /* readable when we are woken; -1: there is no waking here */
	struct store_page page;
	size_t row;       /* of the page's next event */
	int64_t followed; /* without a name: the last position that was read */
};

/* Nothing is connected yet. Settings, owner and stop, which ends long waits, are borrowed. */
int feed_init(struct feed *f, const struct settings *settings, const char *owner,
	      const _Atomic int *stop, struct err *err) MUST_CHECK;
void feed_release(struct feed *f);

/* 1: it is connected; 0: not yet, the eventfd `wake` says when to call it again; -1. The first time
 * it makes the subscription where it is not there, and lets what had stopped go on. Later it must
 * be the same store, with everything up to `done`: LOST otherwise. */
int feed_connect(struct feed *f, int wake, int64_t done, struct err *err) MUST_CHECK;
bool feed_connecting(const struct feed *f); /* and not there yet */
void feed_disconnect(struct feed *f);
bool feed_connected(const struct feed *f);
bool feed_lost_lease(const struct feed *f);

/* The last position that the store has handed out. */
int feed_last(struct feed *f, int64_t *last, struct err *err) MUST_CHECK;

/* 1: the lease is ours, for settings->lease seconds after each sign of life; 0: there is nothing to
 * do. */
int feed_claim(struct feed *f, struct store_lease *lease, struct err *err) MUST_CHECK;
int feed_ack(struct feed *f, const struct store_lease *lease, int64_t position,
	     struct err *err) MUST_CHECK;
/* The event at this position could not be delivered; only with a name. */
int feed_fail(struct feed *f, const struct store_lease *lease, int64_t position, const char *why,
	      enum store_outcome *outcome, struct err *err) MUST_CHECK;
int feed_renew(struct feed *f, const struct store_lease *lease, struct err *err) MUST_CHECK;
int feed_give_back(struct feed *f, const struct store_lease *lease, struct err *err) MUST_CHECK;

/* The next events, into f->page, of which none has been handed on; of parked ones the first, until
 * it is acknowledged. Everything up to `done` is acknowledged first; -1: nothing. */
int feed_fetch(struct feed *f, const struct store_lease *lease, int64_t done, int most,
	       struct err *err) MUST_CHECK;

/* The page's next event; NULL: it has come to its end. */
const struct store_event *feed_next(const struct feed *f);
void feed_drop_page(struct feed *f);

/* Says that we sleep; lowers *ms to how long that may be at most. The feed has to be looked at once
 * more first. */
int feed_sleep(struct feed *f, int64_t *ms, struct err *err) MUST_CHECK;

/* Whether somebody has said that there is something new, since the last call. */
bool feed_woken(struct feed *f);

#endif
