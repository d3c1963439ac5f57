/* Subscriptions of the event store in PostgreSQL: thin calls of its SQL functions. */
#include "store/postgres.h"

int postgres_subscription_make(struct store *s, const struct store_subscription *sub, struct err *err)
{
	int64_t made;

	if (postgres_call(s, err, &made,
			  "SELECT herald.subscribe($1, $2::jsonb, nullif($3::int, 0), $4, "
			  "jsonb_strip_nulls(jsonb_build_object("
			  "'on_failure', $5::text, 'max_attempts', nullif($6::int, 0),"
			  " 'backoff', nullif($7::bigint, 0) || ' milliseconds')))",
			  "ssissii", sub->name, sub->source, (int64_t)sub->partitions, sub->start,
			  sub->on_failure, (int64_t)sub->max_attempts, sub->backoff_ms))
		return -1;
	return made != 0;
}

int postgres_subscription_drop(struct store *s, const char *name, struct err *err)
{
	int64_t gone;

	return postgres_call(s, err, &gone, "SELECT herald.unsubscribe($1)", "s", name) ? -1
											: gone != 0;
}

int postgres_subscription_claim(struct store *s, const char *owner, int64_t lease_ms,
				struct store_lease *lease, struct err *err)
{
	PGresult *res =
		postgres_ask(s, err,
			     "SELECT partition, token, position, partitions"
			     " FROM herald.claim($1, $2, $3::bigint * interval '1 millisecond')",
			     "ssi", lease->name, owner, lease_ms);
	int n = res ? PQntuples(res) : -1;

	if (n > 0) {
		lease->partition = (int)postgres_integer(res, 0, 0);
		lease->token = postgres_integer(res, 0, 1);
		lease->position = postgres_integer(res, 0, 2);
		lease->partitions = (int)postgres_integer(res, 0, 3);
	}
	PQclear(res);
	return n;
}

int postgres_subscription_fetch(struct store *s, const struct store_lease *lease, int64_t done,
				int max, struct store_page *page, struct err *err)
{
	return postgres_fill(page,
			     postgres_ask(s, err,
					  "SELECT " POSTGRES_COLUMNS
					  " FROM herald.fetch($1, $2::int, $3::bigint, $4::int,"
					  " nullif($5::bigint, -1))",
					  "siiii", lease->name, (int64_t)lease->partition,
					  lease->token, (int64_t)max, done),
			     err);
}

int postgres_subscription_ack(struct store *s, const struct store_lease *lease, int64_t position,
			      struct err *err)
{
	int64_t ignored;

	return postgres_call(s, err, &ignored,
			     "SELECT herald.ack($1, $2::int, $3::bigint, $4::bigint)", "siii",
			     lease->name, (int64_t)lease->partition, lease->token, position);
}

int postgres_subscription_renew(struct store *s, const struct store_lease *lease, struct err *err)
{
	int64_t ignored;

	return postgres_call(s, err, &ignored, "SELECT herald.renew($1, $2::int, $3::bigint)",
			     "sii", lease->name, (int64_t)lease->partition, lease->token);
}

int postgres_subscription_release(struct store *s, const struct store_lease *lease, struct err *err)
{
	int64_t ignored;

	return postgres_call(s, err, &ignored, "SELECT herald.release($1, $2::int, $3::bigint)",
			     "sii", lease->name, (int64_t)lease->partition, lease->token);
}

int postgres_subscription_fail(struct store *s, const struct store_lease *lease, int64_t position,
			       const char *why, enum store_outcome *outcome, struct err *err)
{
	int64_t n;

	if (postgres_call(s, err, &n,
			  "SELECT array_position('{retry,stopped,parked}',"
			  " herald.fail($1, $2::int, $3::bigint, $4::bigint, $5))",
			  "siiis", lease->name, (int64_t)lease->partition, lease->token, position,
			  why))
		return -1;
	*outcome = (enum store_outcome)(n - 1);
	return 0;
}

int postgres_subscription_resume(struct store *s, const char *name, int64_t *resumed, struct err *err)
{
	return postgres_call(s, err, resumed, "SELECT herald.resume($1)", "s", name);
}

int postgres_subscription_parked_next(struct store *s, const char *name, struct store_page *page,
				      struct err *err)
{
	return postgres_fill(page,
			     postgres_ask(s, err,
					  "SELECT " POSTGRES_COLUMNS " FROM herald.parked_next($1)",
					  "s", name),
			     err);
}

int postgres_subscription_parked_done(struct store *s, const char *name, int64_t position,
				      struct err *err)
{
	int64_t done;

	if (postgres_call(s, err, &done, "SELECT herald.parked_done($1, $2::bigint)", "si", name,
			  position))
		return -1;
	return done != 0;
}
