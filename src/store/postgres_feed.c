#include "store/postgres_feed.h"

#include "store/migrations.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In the order of enum domain_column. */
#define COLUMNS "category, stream, version, id, type, data, metadata, topic, time, position"

#define NUMBER 24 /* bytes of a 64-bit number as text */

/* A schema, a function or a table. */
static bool is_missing(const char *state)
{
	return state && (strcmp(state, "3F000") == 0 || strcmp(state, "42883") == 0 ||
			 strcmp(state, "42P01") == 0);
}

static PGresult *ask(struct feed *f, const char *text, int nparams, const char *const *params,
		     struct err *err)
{
	struct strbuf b = { 0 };
	struct err why;
	PGresult *res;

	migrations_write(&b, text, f->schema);
	res = conn_ask(f->sql, &why, strbuf_cstr(&b), nparams, params);
	strbuf_release(&b);
	if (why.kind == ERR_NONE)
		return res;
	*err = why;
	if (res && is_missing(PQresultErrorField(res, PG_DIAG_SQLSTATE)))
		err_set(err,
			ERR_CONFIG, "there is no event store of this version in schema %s of database \"%s\": run pgherald store init",
			f->schema, PQdb(f->sql));
	PQclear(res);
	return NULL;
}

static int run(struct feed *f, const char *text, int nparams, const char *const *params,
	       struct err *err)
{
	PGresult *res = ask(f, text, nparams, params, err);

	PQclear(res);
	return res ? 0 : -1;
}

static int learn(struct feed *f, struct err *err)
{
	PGresult *res = ask(f, "SELECT to_regprocedure('herald.sleep(text,integer)') IS NOT NULL",
			    0, NULL, err);

	if (!res)
		return -1;
	f->can_sleep = *PQgetvalue(res, 0, 0) == 't';
	PQclear(res);
	return run(f, "LISTEN herald", 0, NULL, err);
}

int feed_open(struct feed *f, const char *conninfo, struct err *err)
{
	if (strncmp(conninfo, "sqlite:", 7) == 0)
		return err_set(err, ERR_CONFIG,
			       "the subscriptions of a store in SQLite are for programs that use "
			       "libpgherald; read --follow shows its events");
	if (migrations_check_schema(f->schema, err))
		return -1;
	f->sql = conn_open(conninfo, CONN_SQL, err);
	if (!f->sql)
		return -1;
	PQsetErrorContextVisibility(f->sql, PQSHOW_CONTEXT_NEVER); /* only where in our SQL it was */
	if (learn(f, err) == 0)
		return 0;
	feed_close(f);
	return -1;
}

void feed_close(struct feed *f)
{
	PQfinish(f->sql);
	f->sql = NULL;
}

static uint64_t number(PGresult *res, int column)
{
	return strtoull(PQgetvalue(res, 0, column), NULL, 10);
}

int feed_identify(struct feed *f, uint64_t *system_id, uint64_t *last, struct err *err)
{
	PGresult *res =
		ask(f,
		    "SELECT system_identifier, greatest(0, CASE WHEN r.may THEN "
		    "pg_sequence_last_value('herald.feed_position') END, "
		    "(SELECT position FROM herald.event ORDER BY position DESC LIMIT 1)), r.may "
		    "FROM pg_control_system(), LATERAL (SELECT "
		    "has_sequence_privilege('herald.feed_position', 'SELECT') AS may) r",
		    0, NULL, err);

	if (!res)
		return -1;
	*system_id = number(res, 0);
	*last = number(res, 1);
	f->sees_sequence = *PQgetvalue(res, 0, 2) == 't';
	PQclear(res);
	return 0;
}

static int exists(struct feed *f, bool *there, struct err *err)
{
	PGresult *res =
		ask(f, "SELECT FROM herald.lag WHERE subscription = $1 LIMIT 1", 1, &f->name, err);

	*there = res && PQntuples(res) > 0;
	PQclear(res);
	return res ? 0 : -1;
}

int feed_subscribe(struct feed *f, const char *source, int partitions, const char *start,
		   const char *options, int *resumed, struct err *err)
{
	bool there, nothing_said = strcmp(source, "{}") == 0 && strcmp(options, "{}") == 0;
	char count[NUMBER];
	const char *params[] = { f->name, source, count, start, options };
	PGresult *res;

	snprintf(count, sizeof(count), "%d", partitions);
	if (exists(f, &there, err))
		return -1;
	if (!(there && nothing_said && partitions == 0) &&
	    run(f,
		"SELECT herald.subscribe($1, $2::jsonb, coalesce(nullif($3::int, 0),"
		" (SELECT max(partition) + 1 FROM herald.lag WHERE subscription = $1), 1), $4, "
		"$5::jsonb)",
		5, params, err))
		return -1;
	res = ask(f, "SELECT herald.resume($1)", 1, params, err);
	if (!res)
		return -1;
	*resumed = (int)number(res, 0);
	PQclear(res);
	return 0;
}

int feed_start(struct feed *f, const char *start, uint64_t *position, struct err *err)
{
	PGresult *res;

	*position = strtoull(start, NULL, 10);
	if (strcmp(start, "end") != 0)
		return 0;
	res = ask(f, "SELECT herald.horizon()", 0, NULL, err);
	if (!res)
		return err_add(err, "where the feed ends now is for the store's owner, or whoever "
				    "may execute horizon(); others give a position");
	*position = number(res, 0);
	PQclear(res);
	return 0;
}

int feed_claim(struct feed *f, const char *owner, int lease, struct feed_claim *c, struct err *err)
{
	char seconds[NUMBER];
	const char *params[] = { f->name, owner, seconds };
	PGresult *res;
	int n;

	snprintf(seconds, sizeof(seconds), "%d s", lease);
	res = ask(f,
		  "SELECT partition, token, position, (SELECT count(*) FROM herald.lag WHERE "
		  "subscription = $1)"
		  " FROM herald.claim($1, $2, $3::interval)",
		  3, params, err);
	if (!res)
		return -1;
	n = PQntuples(res);
	if (n) {
		c->partition = (int)number(res, 0);
		c->token = (int64_t)number(res, 1);
		c->position = number(res, 2);
		c->partitions = (int)number(res, 3);
	}
	PQclear(res);
	return n;
}

/* The first three parameters of all that is done with a claim, and a fourth. */
struct claim_params {
	char partition[NUMBER], token[NUMBER], last[NUMBER];
	const char *v[5];
};

static void fill(struct claim_params *p, const struct feed *f, const struct feed_claim *c,
		 uint64_t last)
{
	snprintf(p->partition, sizeof(p->partition), "%d", c->partition);
	snprintf(p->token, sizeof(p->token), "%" PRId64, c->token);
	snprintf(p->last, sizeof(p->last), "%" PRIu64, last);
	p->v[0] = f->name;
	p->v[1] = p->partition;
	p->v[2] = p->token;
	p->v[3] = p->last;
	p->v[4] = NULL;
}

PGresult *feed_fetch(struct feed *f, const struct feed_claim *c, int most, struct err *err)
{
	struct claim_params p;

	fill(&p, f, c, (uint64_t)most);
	return ask(f, "SELECT " COLUMNS " FROM herald.fetch($1, $2::int, $3::bigint, $4::int)", 4,
		   p.v, err);
}

PGresult *feed_read(struct feed *f, uint64_t after, int most, const char *const filter[3],
		    struct err *err)
{
	char from[NUMBER], count[NUMBER];
	const char *params[] = { from, count, filter[0], filter[1], filter[2] };

	snprintf(from, sizeof(from), "%" PRIu64, after);
	snprintf(count, sizeof(count), "%d", most);
	return ask(f,
		   "SELECT " COLUMNS " FROM herald.read($1::bigint, $2::int, "
		   "string_to_array($3, ','), string_to_array($4, ','), string_to_array($5, ','))",
		   5, params, err);
}

int feed_ack(struct feed *f, const struct feed_claim *c, uint64_t position, struct err *err)
{
	struct claim_params p;

	fill(&p, f, c, position);
	return run(f, "SELECT herald.ack($1, $2::int, $3::bigint, $4::bigint)", 4, p.v, err);
}

int feed_renew(struct feed *f, const struct feed_claim *c, struct err *err)
{
	struct claim_params p;

	fill(&p, f, c, 0);
	return run(f, "SELECT herald.renew($1, $2::int, $3::bigint)", 3, p.v, err);
}

int feed_release(struct feed *f, const struct feed_claim *c, struct err *err)
{
	struct claim_params p;

	fill(&p, f, c, 0);
	return run(f, "SELECT herald.release($1, $2::int, $3::bigint)", 3, p.v, err);
}

int feed_fail(struct feed *f, const struct feed_claim *c, uint64_t position, const char *why,
	      char what[16], struct err *err)
{
	struct claim_params p;
	PGresult *res;

	fill(&p, f, c, position);
	p.v[4] = why;
	res = ask(f, "SELECT herald.fail($1, $2::int, $3::bigint, $4::bigint, $5)", 5, p.v, err);
	if (!res)
		return -1;
	snprintf(what, 16, "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

int feed_sleep(struct feed *f, int *ms, struct err *err)
{
	char most[NUMBER];
	const char *params[] = { f->name, most };
	PGresult *res;

	if (!f->can_sleep)
		return 0;
	snprintf(most, sizeof(most), "%d", *ms);
	res = ask(f, "SELECT herald.sleep($1, $2::int)", 2, params, err);
	if (!res)
		return -1;
	if (!PQgetisnull(res, 0, 0) && (int)number(res, 0) < *ms)
		*ms = (int)number(res, 0);
	PQclear(res);
	return 0;
}

bool feed_notified(struct feed *f)
{
	bool any = false;
	PGnotify *n;

	if (!PQconsumeInput(f->sql))
		return true; /* whoever asks next learns why */
	while ((n = PQnotifies(f->sql))) {
		any = true;
		PQfreemem(n);
	}
	return any;
}
