/*
 * The event store in PostgreSQL. postgres_call.c calls its SQL functions; postgres.c has the
 * connection and what is not a subscription's.
 */
#ifndef PGHERALD_STORE_POSTGRES_H
#define PGHERALD_STORE_POSTGRES_H

#include "store/store.h"

#include <libpq-fe.h>

#define POSTGRES_PREPARED 64 /* more than there are statements */

/* The state of such a store. */
struct postgres {
	PGconn *conn;
	bool silent; /* it gave no answer in time */
	bool direct; /* no pooler gives us another session for each transaction */
	const char *prepared[POSTGRES_PREPARED];
	size_t nprepared;
};

static inline PGconn *postgres_conn(const struct store *s)
{
	return ((const struct postgres *)s->state)->conn;
}

/* Runs SQL in which "herald" stands for the schema, with parameters as `types` says: s is a text
 * (NULL: null), i an int64_t. Returns a result that the caller clears, or NULL with err. */
PGresult *postgres_ask(struct store *s, struct err *err, const char *sql, const char *types, ...);

/* The same for the one value of a result: a number, or 1 for true; 0 where it is null or there is
 * none. */
int postgres_call(struct store *s, struct err *err, int64_t *value, const char *sql,
		  const char *types, ...) MUST_CHECK;

int64_t postgres_integer(const PGresult *res, int row, int column);

/* The columns of each query that yields events, in this order. */
#define POSTGRES_COLUMNS                                                                           \
	"position, version, time, category, stream, id, type, topic, data, metadata"

/* Puts the rows of such a query into a page, which owns the result from here on; NULL fails. */
int postgres_fill(struct store_page *page, PGresult *res, struct err *err) MUST_CHECK;

/* As in struct store_backend. */
int postgres_subscription_make(struct store *s, const struct store_subscription *sub,
			       struct err *err);
int postgres_subscription_drop(struct store *s, const char *name, struct err *err);
int postgres_subscription_claim(struct store *s, const char *owner, int64_t lease_ms,
				struct store_lease *lease, struct err *err);
int postgres_subscription_fetch(struct store *s, const struct store_lease *lease, int64_t done,
				int max, struct store_page *page, struct err *err);
int postgres_subscription_ack(struct store *s, const struct store_lease *lease, int64_t position,
			      struct err *err);
int postgres_subscription_renew(struct store *s, const struct store_lease *lease, struct err *err);
int postgres_subscription_release(struct store *s, const struct store_lease *lease, struct err *err);
int postgres_subscription_fail(struct store *s, const struct store_lease *lease, int64_t position,
			       const char *why, enum store_outcome *outcome, struct err *err);
int postgres_subscription_resume(struct store *s, const char *name, int64_t *resumed,
				 struct err *err);
int postgres_subscription_parked_next(struct store *s, const char *name, struct store_page *page,
				      struct err *err);
int postgres_subscription_parked_done(struct store *s, const char *name, int64_t position,
				      struct err *err);

#endif
