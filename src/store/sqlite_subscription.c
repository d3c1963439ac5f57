/* Subscriptions of the store in SQLite: what src/store/sql/002-subscriptions.sql does. */
#include "base/clock.h"
#include "base/json.h"
#include "store/sqlite.h"

#include <inttypes.h>
#include <stdlib.h>

#define WINDOW 100000 /* positions for one look */
#define FARTHEST (20 * WINDOW)
#define MOST_RETRY_US INT64_C(3600000000)
#define MOST_DOUBLINGS 40

/* ---- making one ---- */

struct source {
	struct str categories, topics, types, stream; /* .p NULL: none */
	struct strbuf text;                           /* compact */
	struct strbuf category, stream_id;
};

static void source_release(struct source *c)
{
	strbuf_release(&c->text);
	strbuf_release(&c->category);
	strbuf_release(&c->stream_id);
}

/* The category of a single stream becomes an array as the others are. */
static bool parse_source(struct source *c, const char *json)
{
	struct str inside, key, value, category = { 0 };

	if (!json_valid(str_c(json)))
		return false;
	json_compact(&c->text, str_c(json));
	if (c->text.n < 2 || c->text.p[0] != '{')
		return false;
	inside = json_inside(strbuf_view(&c->text));
	while (json_next(&inside, &key, &value)) {
		struct str *to = str_eq(key, STR("\"categories\"")) ? &c->categories
				 : str_eq(key, STR("\"topics\""))   ? &c->topics
				 : str_eq(key, STR("\"types\""))    ? &c->types
				 : str_eq(key, STR("\"category\"")) ? &category
				 : str_eq(key, STR("\"stream\""))   ? &c->stream
								    : NULL;

		if (!to || value.p[0] != (to == &category || to == &c->stream ? '"' : '['))
			return false;
		*to = value;
	}
	if (!category.p != !c->stream.p || (category.p && c->categories.p))
		return false;
	if (!category.p)
		return true;
	strbuf_printf(&c->category, "[%.*s]", STR_ARG(category));
	c->categories = strbuf_view(&c->category);
	if (!json_unquote(&c->stream_id, c->stream))
		return false;
	c->stream = strbuf_view(&c->stream_id);
	return true;
}

static int start_of(struct store *s, const char *start, int64_t *position, struct err *err)
{
	char *end;

	*position = 0;
	if (strcmp(start, "beginning") == 0)
		return 0;
	if (strcmp(start, "end") == 0)
		return sqlite_read_end(s, position, err);
	*position = strtoll(start, &end, 10);
	if (end == start || *end)
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				    "start is beginning, end or a position: %s", start);
	return 0;
}

static int set_options(struct store *s, const struct store_subscription *sub, struct err *err)
{
	const char *f = sub->on_failure;

	if (f && strcmp(f, "stop") != 0 && strcmp(f, "park") != 0 && strcmp(f, "park-stream") != 0)
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				    "on_failure is stop, park or park-stream: %s", f);
	return sqlite_run(s, err, NULL,
			  "UPDATE herald_subscription SET on_failure = coalesce(?2, on_failure),"
			  " max_attempts = coalesce(nullif(?3, 0), max_attempts),"
			  " backoff = coalesce(nullif(?4, 0), backoff) WHERE name = ?1",
			  "ssii", sub->name, f, (int64_t)sub->max_attempts, sub->backoff_ms * 1000);
}

static int make_checkpoints(struct store *s, const char *name, int64_t partitions, int64_t position,
			    int64_t token, struct err *err)
{
	for (int64_t i = 0; i < partitions; i++)
		if (sqlite_run(s, err, NULL,
			       "INSERT INTO herald_checkpoint (subscription, partition, position, "
			       "token)"
			       " VALUES (?, ?, ?, ?)",
			       "siii", name, i, position, token))
			return -1;
	return 0;
}

/* Once all partitions have come to the barrier, and nobody has events of one in hand, there may be
 * another number of them. */
static int cross_barrier(struct store *s, const char *name, struct err *err)
{
	int64_t barrier, partitions, token, busy;
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row,
			       "SELECT barrier, next_partitions FROM herald_subscription"
			       " WHERE name = ? AND barrier IS NOT NULL",
			       "s", name);

	if (found <= 0)
		return found;
	barrier = sqlite3_column_int64(row, 0);
	partitions = sqlite3_column_int64(row, 1);
	sqlite3_reset(row);
	if (sqlite_run(s, err, &busy,
		       "SELECT count(*) FROM herald_checkpoint WHERE subscription = ?"
		       " AND (position < ? OR owner IS NOT NULL AND lease_until > ?)",
		       "sii", name, barrier, clock_wall_us()) < 0)
		return -1;
	if (busy)
		return 0;
	if (sqlite_run(s, err, &token,
		       "SELECT max(token) FROM herald_checkpoint WHERE subscription = ?", "s",
		       name) < 0 ||
	    sqlite_run(s, err, NULL, "DELETE FROM herald_checkpoint WHERE subscription = ?", "s",
		       name) ||
	    make_checkpoints(s, name, partitions, barrier, token + 1, err))
		return -1;
	return sqlite_run(s, err, NULL,
			  "UPDATE herald_subscription SET partitions = next_partitions,"
			  " next_partitions = NULL, barrier = NULL WHERE name = ?",
			  "s", name);
}

static int change(struct store *s, const struct store_subscription *sub, struct err *err)
{
	int64_t now;

	if (set_options(s, sub, err))
		return -1;
	if (!sub->partitions)
		return 0;
	if (sqlite_run(s, err, &now,
		       "SELECT coalesce(next_partitions, partitions) FROM herald_subscription"
		       " WHERE name = ?",
		       "s", sub->name) < 0)
		return -1;
	if (now == sub->partitions)
		return 0;
	if (sqlite_run(s, err, NULL,
		       "UPDATE herald_subscription SET next_partitions = ?2,"
		       " barrier = max(coalesce(barrier, 0), (SELECT max(position)"
		       " FROM herald_checkpoint WHERE subscription = ?1)) WHERE name = ?1",
		       "si", sub->name, (int64_t)sub->partitions))
		return -1;
	return cross_barrier(s, sub->name, err);
}

static int make(struct store *s, const struct store_subscription *sub, const struct source *source,
		struct err *err)
{
	int64_t partitions = sub->partitions ? sub->partitions : 1, start;
	sqlite3_stmt *row;
	bool same;
	int found = sqlite_ask(s, err, &row, "SELECT source FROM herald_subscription WHERE name = ?",
			       "s", sub->name);

	if (found < 0)
		return -1;
	if (found) {
		same = !sub->source || str_eq(str_c((const char *)sqlite3_column_text(row, 0)),
					      strbuf_view(&source->text));
		sqlite3_reset(row);
		if (!same)
			return store_refuse(s, STORE_NO_SUBSCRIPTION, err,
					    "subscription %s has another source. Take another "
					    "name, or drop it: pgherald subscribe --drop",
					    sub->name);
		return change(s, sub, err);
	}
	if (start_of(s, sub->start, &start, err) ||
	    sqlite_run(s, err, NULL,
		       "INSERT INTO herald_subscription (name, source, categories, topics, types,"
		       " stream, partitions) VALUES (?, ?, ?, ?, ?, ?, ?)",
		       "sttttti", sub->name, &(struct str){ source->text.p, source->text.n },
		       &source->categories, &source->topics, &source->types, &source->stream,
		       partitions) ||
	    make_checkpoints(s, sub->name, partitions, start, 0, err) || set_options(s, sub, err))
		return -1;
	return 1;
}

int sqlite_subscription_make(struct store *s, const struct store_subscription *sub, struct err *err)
{
	struct source source = { 0 };
	int result;

	if (!parse_source(&source, sub->source ? sub->source : "{}"))
		result = store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				      "a source has categories, topics and types, or category and "
				      "stream: %s",
				      sub->source);
	else if (!*sub->name || sub->partitions < 0 || sub->partitions > 1024)
		result = store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				      "a subscription has a name and from 1 to 1024 partitions");
	else if ((result = sqlite_enter(s, err)) == 0)
		result = sqlite_leave(s, make(s, sub, &source, err), err);
	source_release(&source);
	return result;
}

int sqlite_subscription_drop(struct store *s, const char *name, struct err *err)
{
	if (sqlite_run(s, err, NULL, "DELETE FROM herald_subscription WHERE name = ?", "s", name))
		return -1;
	return sqlite_changed(s) != 0;
}

/* ---- leases ---- */

static int lost_lease(struct store *s, const struct store_lease *lease, struct err *err)
{
	return store_refuse(s, STORE_LEASE_LOST, err, "the lease of partition %d of %s was lost",
			    lease->partition, lease->name);
}

/* A partition that has something to do and that nobody holds. */
static int find_free(struct store *s, const char *name, int64_t *partition, struct err *err)
{
	return sqlite_run(
		s, err, partition,
		"SELECT c.partition FROM herald_checkpoint c JOIN herald_subscription s"
		" ON s.name = c.subscription WHERE c.subscription = ?1 AND NOT c.stopped"
		" AND c.position < min((SELECT coalesce(max(position), 0) FROM herald_event),"
		"  coalesce(s.barrier, 9223372036854775807))"
		" AND (c.owner IS NULL OR c.lease_until < ?2)"
		" AND (c.retry_at IS NULL OR c.retry_at <= ?2)"
		" ORDER BY c.served NULLS FIRST, c.partition LIMIT 1",
		"si", name, clock_wall_us());
}

/* In a transaction. */
static int claim(struct store *s, const char *owner, int64_t lease_us, struct store_lease *lease,
		 struct err *err)
{
	int64_t partition, now;
	sqlite3_stmt *row;
	int found;

	if (cross_barrier(s, lease->name, err))
		return -1;
	found = find_free(s, lease->name, &partition, err);
	if (found <= 0)
		return found;
	now = clock_wall_us();
	lease->partition = (int)partition;
	if (sqlite_ask(s, err, &row,
		       "SELECT c.position, s.partitions FROM herald_checkpoint c"
		       " JOIN herald_subscription s ON s.name = c.subscription"
		       " WHERE c.subscription = ? AND c.partition = ?",
		       "si", lease->name, partition) < 0)
		return -1;
	lease->position = sqlite3_column_int64(row, 0);
	lease->partitions = sqlite3_column_int(row, 1);
	sqlite3_reset(row);
	return sqlite_run(
		s, err, &lease->token,
		"UPDATE herald_checkpoint SET owner = ?3, token = token + 1, lease = ?4,"
		" lease_until = ?5, served = ?6 WHERE subscription = ?1 AND partition = ?2"
		" RETURNING token",
		"sisiii", lease->name, partition, owner, lease_us, now + lease_us, now);
}

int sqlite_subscription_claim(struct store *s, const char *owner, int64_t lease_ms,
			      struct store_lease *lease, struct err *err)
{
	int64_t has_barrier, partition;
	int found = sqlite_run(s, err, &has_barrier,
			       "SELECT barrier IS NOT NULL FROM herald_subscription WHERE name = ?",
			       "s", lease->name);

	if (found < 0)
		return -1;
	if (!found)
		return store_refuse(s, STORE_NO_SUBSCRIPTION, err, "there is no subscription %s",
				    lease->name);
	/* Who finds nothing to do does not keep writers waiting. */
	found = has_barrier ? 1 : find_free(s, lease->name, &partition, err);
	if (found <= 0)
		return found;
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, claim(s, owner, lease_ms * 1000, lease, err), err);
}

/* One row was changed, or somebody else has the lease. */
static int check_changed(struct store *s, const struct store_lease *lease, int result, struct err *err)
{
	if (result < 0)
		return -1;
	return sqlite_changed(s) ? 0 : lost_lease(s, lease, err);
}

int sqlite_subscription_renew(struct store *s, const struct store_lease *lease, struct err *err)
{
	return check_changed(
		s, lease,
		sqlite_run(s, err, NULL,
			   "UPDATE herald_checkpoint SET lease_until = ?4 + lease"
			   " WHERE subscription = ?1 AND partition = ?2 AND token = ?3",
			   "siii", lease->name, (int64_t)lease->partition, lease->token,
			   clock_wall_us()),
		err);
}

int sqlite_subscription_release(struct store *s, const struct store_lease *lease, struct err *err)
{
	return sqlite_run(s, err, NULL,
			  "UPDATE herald_checkpoint SET owner = NULL, lease_until = NULL,"
			  " token = token + 1"
			  " WHERE subscription = ?1 AND partition = ?2 AND token = ?3",
			  "sii", lease->name, (int64_t)lease->partition, lease->token);
}

static int ack(struct store *s, const struct store_lease *lease, int64_t position, struct err *err)
{
	int64_t old;
	int found = sqlite_run(s, err, &old,
			       "SELECT position FROM herald_checkpoint WHERE subscription = ?"
			       " AND partition = ? AND token = ?",
			       "sii", lease->name, (int64_t)lease->partition, lease->token);

	if (found <= 0)
		return found < 0 ? -1 : lost_lease(s, lease, err);
	if (position < old)
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				    "position %" PRId64 " is done already; %s is at %" PRId64,
				    position, lease->name, old);
	if (sqlite_run(s, err, NULL,
		       "UPDATE herald_checkpoint SET position = ?3, lease_until = ?4 + lease,"
		       " attempts = 0, failed_position = NULL, retry_at = NULL, error = NULL"
		       " WHERE subscription = ?1 AND partition = ?2",
		       "siii", lease->name, (int64_t)lease->partition, position, clock_wall_us()) ||
	    sqlite_run(
		    s, err, NULL,
		    "DELETE FROM herald_parked WHERE subscription = ?1 AND done AND position <= ?3"
		    " AND stream_number % (SELECT partitions FROM herald_subscription"
		    "  WHERE name = ?1) = ?2",
		    "sii", lease->name, (int64_t)lease->partition, position))
		return -1;
	/* Events that were fetched before there was a barrier may move it. */
	return sqlite_run(s, err, NULL,
			  "UPDATE herald_subscription SET barrier = ?2"
			  " WHERE name = ?1 AND barrier < ?2",
			  "si", lease->name, position);
}

int sqlite_subscription_ack(struct store *s, const struct store_lease *lease, int64_t position,
			    struct err *err)
{
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, ack(s, lease, position, err), err);
}

/* ---- the next events ---- */

struct look {
	int64_t position; /* of the checkpoint */
	int64_t lease, lease_until;
	int64_t barrier;  /* INT64_MAX: none */
	int64_t done;     /* looked at so far */
	int64_t *blocked; /* positions of streams that are parked */
	size_t nblocked;
};

static int begin_look(struct store *s, const struct store_lease *lease, struct look *l,
		      struct err *err)
{
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row,
			       "SELECT c.position, c.lease, c.lease_until,"
			       " coalesce(s.barrier, 9223372036854775807)"
			       " FROM herald_checkpoint c JOIN herald_subscription s"
			       " ON s.name = c.subscription"
			       " WHERE c.subscription = ? AND c.partition = ? AND c.token = ?",
			       "sii", lease->name, (int64_t)lease->partition, lease->token);

	if (found <= 0)
		return found < 0 ? -1 : lost_lease(s, lease, err);
	l->done = l->position = sqlite3_column_int64(row, 0);
	l->lease = sqlite3_column_int64(row, 1);
	l->lease_until = sqlite3_column_int64(row, 2);
	l->barrier = sqlite3_column_int64(row, 3);
	sqlite3_reset(row);
	return 0;
}

/* Behind the columns of an event: its stream's earlier events are parked and block it. */
#define IS_BLOCKED 10

static int look(struct store *s, const struct store_lease *lease, struct look *l, int64_t to,
		int max, struct store_page *page, struct err *err)
{
	sqlite3_stmt *row;
	int64_t last = to;
	int n = 0;
	int found = sqlite_ask(
		s, err, &row,
		"SELECT " SQLITE_COLUMNS ","
		" EXISTS (SELECT 1 FROM herald_parked p WHERE p.subscription = ?1"
		"  AND p.stream_number = e.stream_number AND p.blocks AND NOT p.done)"
		" FROM herald_subscription u CROSS JOIN herald_event e"
		" CROSS JOIN herald_stream s ON s.number = e.stream_number"
		" WHERE u.name = ?1 AND e.position > ?3 AND e.position <= ?4"
		" AND (u.stream IS NULL OR s.id = u.stream)"
		" AND (u.categories IS NULL"
		"  OR s.category IN (SELECT value FROM json_each(u.categories)))"
		" AND (u.topics IS NULL OR e.topic IN (SELECT value FROM json_each(u.topics)))"
		" AND (u.types IS NULL OR e.type IN (SELECT value FROM json_each(u.types)))"
		" AND e.stream_number % u.partitions = ?2"
		" AND NOT EXISTS (SELECT 1 FROM herald_parked p"
		"  WHERE p.subscription = ?1 AND p.position = e.position)"
		" ORDER BY e.position LIMIT ?5",
		"siiii", lease->name, (int64_t)lease->partition, l->done, to, (int64_t)max);

	for (; found > 0; found = sqlite_more(s, row, err)) {
		int64_t position = sqlite3_column_int64(row, 0);

		if (sqlite3_column_int(row, IS_BLOCKED))
			l->blocked[l->nblocked++] = position;
		else
			sqlite_read_take(page, row);
		if (++n == max)
			last = position;
	}
	l->done = last;
	return found;
}

static int park_blocked(struct store *s, const struct store_lease *lease, struct look *l,
			struct err *err)
{
	for (size_t i = 0; i < l->nblocked; i++)
		if (sqlite_run(s, err, NULL,
			       "INSERT INTO herald_parked (subscription, position, stream_number,"
			       " blocks, parked) SELECT ?1, position, stream_number, 1, ?3"
			       " FROM herald_event WHERE position = ?2 ON CONFLICT DO NOTHING",
			       "sii", lease->name, l->blocked[i], clock_wall_us()))
			return -1;
	l->nblocked = 0;
	return 0;
}

/* What is blocked is written down in one transaction with the look that found it. */
static int look_again(struct store *s, const struct store_lease *lease, struct look *l, int64_t to,
		      int max, struct store_page *page, struct err *err)
{
	struct look again = *l;

	if (sqlite_enter(s, err))
		return -1;
	store_page_clear(page);
	again.nblocked = 0;
	if (begin_look(s, lease, &(struct look){ 0 }, err) ||
	    look(s, lease, &again, to, max, page, err) || park_blocked(s, lease, &again, err))
		return sqlite_leave(s, -1, err);
	l->done = again.done;
	l->nblocked = 0;
	return sqlite_leave(s, 0, err);
}

/* Nothing was found up to l->done: the checkpoint moves on, so that nobody has to look again. */
static int move_on(struct store *s, const struct store_lease *lease, const struct look *l,
		   struct err *err)
{
	int64_t to = l->done > l->position ? l->done : l->position;

	if (l->done >= l->barrier) /* the partitions are about to change */
		return sqlite_subscription_ack(s, lease, to, err) ||
				       sqlite_subscription_release(s, lease, err)
			       ? -1
			       : 0;
	return l->done > l->position ? sqlite_subscription_ack(s, lease, to, err) : 0;
}

int sqlite_subscription_fetch(struct store *s, const struct store_lease *lease, int64_t done,
			      int max, struct store_page *page, struct err *err)
{
	struct look l = { 0 };
	int64_t horizon;
	int result;

	store_page_clear(page);
	if (done >= 0 && sqlite_subscription_ack(s, lease, done, err))
		return -1;
	if (begin_look(s, lease, &l, err) || sqlite_read_end(s, &horizon, err))
		return -1;
	if (horizon > l.barrier)
		horizon = l.barrier;
	if (horizon > l.position + FARTHEST)
		horizon = l.position + FARTHEST;
	l.blocked = mem_array((size_t)max, sizeof(*l.blocked));
	result = 0;
	while (!result && page->n == 0 && l.done < horizon) {
		int64_t from = l.done, to = horizon - from > WINDOW ? from + WINDOW : horizon;

		result = look(s, lease, &l, to, max, page, err);
		if (!result && l.nblocked) {
			l.done = from;
			result = look_again(s, lease, &l, to, max, page, err);
		}
	}
	if (!result && page->n == 0)
		result = move_on(s, lease, &l, err);
	else if (!result && l.lease_until < clock_wall_us() + l.lease / 2)
		result = sqlite_subscription_renew(s, lease, err);
	free(l.blocked);
	return result;
}

/* ---- failures ---- */

static int fail(struct store *s, const struct store_lease *lease, int64_t position, const char *why,
		enum store_outcome *outcome, struct err *err)
{
	int64_t tried, most, backoff;
	sqlite3_stmt *row;
	bool stops;
	int found = sqlite_ask(s, err, &row,
			       "SELECT iif(c.failed_position IS ?4, c.attempts, 0) + 1,"
			       " s.max_attempts, s.backoff, s.on_failure = 'stop'"
			       " FROM herald_checkpoint c JOIN herald_subscription s"
			       " ON s.name = c.subscription"
			       " WHERE c.subscription = ?1 AND c.partition = ?2 AND c.token = ?3",
			       "siii", lease->name, (int64_t)lease->partition, lease->token,
			       position);

	if (found <= 0)
		return found < 0 ? -1 : lost_lease(s, lease, err);
	tried = sqlite3_column_int64(row, 0);
	most = sqlite3_column_int64(row, 1);
	backoff = sqlite3_column_int64(row, 2);
	stops = sqlite3_column_int(row, 3) != 0;
	sqlite3_reset(row);
	if (tried >= most && !stops) {
		*outcome = STORE_PARKED;
		if (sqlite_run(
			    s, err, NULL,
			    "INSERT INTO herald_parked (subscription, position, stream_number,"
			    " blocks, attempts, error, parked)"
			    " SELECT ?1, e.position, e.stream_number, u.on_failure = 'park-stream',"
			    " ?3, ?4, ?5 FROM herald_event e, herald_subscription u"
			    " WHERE e.position = ?2 AND u.name = ?1",
			    "siisi", lease->name, position, tried, why, clock_wall_us()))
			return -1;
		return ack(s, lease, position, err);
	}
	*outcome = tried >= most ? STORE_STOPPED : STORE_RETRIES;
	for (int64_t i = 1; i < tried && i < MOST_DOUBLINGS && backoff < MOST_RETRY_US; i++)
		backoff *= 2;
	if (backoff > MOST_RETRY_US)
		backoff = MOST_RETRY_US;
	return sqlite_run(s, err, NULL,
			  "UPDATE herald_checkpoint SET failed_position = ?3, attempts = ?4,"
			  " error = ?5, owner = NULL, lease_until = NULL, token = token + 1,"
			  " stopped = ?6, retry_at = ?7 WHERE subscription = ?1 AND partition = ?2",
			  "siiisii", lease->name, (int64_t)lease->partition, position, tried, why,
			  (int64_t)(tried >= most), clock_wall_us() + backoff);
}

int sqlite_subscription_fail(struct store *s, const struct store_lease *lease, int64_t position,
			     const char *why, enum store_outcome *outcome, struct err *err)
{
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, fail(s, lease, position, why, outcome, err), err);
}

int sqlite_subscription_resume(struct store *s, const char *name, int64_t *resumed, struct err *err)
{
	if (sqlite_run(s, err, NULL,
		       "UPDATE herald_checkpoint SET stopped = 0, attempts = 0, retry_at = NULL"
		       " WHERE subscription = ? AND (stopped OR retry_at IS NOT NULL)",
		       "s", name))
		return -1;
	*resumed = sqlite_changed(s);
	return 0;
}
