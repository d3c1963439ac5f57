/*
 * The store's feed in PostgreSQL, as a consumer reads it: one partition at a time of a subscription, or,
 * without a subscription, everything behind a position. One thread, one connection. Errors: BUSY when
 * the lease of the partition was lost, RETRY when the connection was, CONFIG where there is no store.
 */
#ifndef PGHERALD_POSTGRES_FEED_H
#define PGHERALD_POSTGRES_FEED_H

#include "pg/conn.h"

struct feed {
	PGconn *sql; /* NULL: not connected */
	const char *schema;
	const char *name;   /* of the subscription; NULL: the feed itself */
	bool can_sleep;     /* the store wakes those who say that they sleep */
	bool sees_sequence; /* has the right to; else the last position is that of the last event */
};

/* A partition that is ours while the token is valid. */
struct feed_claim {
	int partition;
	int partitions; /* so many there are */
	int64_t token;
	uint64_t position; /* everything up to here is done */
};

/* Connects and listens for notifications. */
int feed_open(struct feed *f, const char *conninfo, struct err *err) MUST_CHECK;
void feed_close(struct feed *f);

/* Which server it is, and the last position that was handed out. */
int feed_identify(struct feed *f, uint64_t *system_id, uint64_t *last, struct err *err) MUST_CHECK;

/* Makes the subscription or changes its options; see herald.subscribe. partitions 0: as many as
 * there are. Where it is there and nothing is said of it, it is taken as it is. Partitions that had
 * stopped try again; *resumed is their number. */
int feed_subscribe(struct feed *f, const char *source, int partitions, const char *start,
		   const char *options, int *resumed, struct err *err) MUST_CHECK;

/* "beginning", "end" or a position, as a number. */
int feed_start(struct feed *f, const char *start, uint64_t *position, struct err *err) MUST_CHECK;

/* 1: *c is ours, for `lease` seconds after each sign of life; 0: there is nothing to do. */
int feed_claim(struct feed *f, const char *owner, int lease, struct feed_claim *c,
	       struct err *err) MUST_CHECK;

/* The next events of the partition; the columns are those of enum domain_column. The caller clears
 * the result. */
PGresult *feed_fetch(struct feed *f, const struct feed_claim *c, int most, struct err *err) MUST_CHECK;

/* Events of the feed behind a position; categories, topics and types are comma lists or NULL. */
PGresult *feed_read(struct feed *f, uint64_t after, int most, const char *const filter[3],
		    struct err *err) MUST_CHECK;

/* Everything up to here is done. */
int feed_ack(struct feed *f, const struct feed_claim *c, uint64_t position,
	     struct err *err) MUST_CHECK;

int feed_renew(struct feed *f, const struct feed_claim *c, struct err *err) MUST_CHECK;
int feed_release(struct feed *f, const struct feed_claim *c, struct err *err) MUST_CHECK;

/* The event at this position could not be delivered. `what`
 * is "retry", "stopped" or "parked". */
int feed_fail(struct feed *f, const struct feed_claim *c, uint64_t position, const char *why,
	      char what[16], struct err *err) MUST_CHECK;

/* Says that we sleep; *ms is for how long at most. The feed has to be looked at once more first. */
int feed_sleep(struct feed *f, int *ms, struct err *err) MUST_CHECK;

/* Whether somebody has said that there is something new, since the last call. */
bool feed_notified(struct feed *f);

#endif
