/* Whose a stream is: the hash "pgherald:writers", see redis.c. */
#include "sink/redis.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t hash(struct str s)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a */

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3;
	return h;
}

void redis_client_name(char out[REDIS_CLIENT_SIZE], struct str origin)
{
	snprintf(out, REDIS_CLIENT_SIZE, "pgherald-%016" PRIx64, hash(origin));
}

static struct position parse_id(const char *id)
{
	struct position p = { 0 };
	char *dash;

	p.lsn = strtoull(id, &dash, 10);
	/* Ids of others may be beyond what a position can be. */
	if (*dash == '-') {
		unsigned long long ordinal = strtoull(dash + 1, NULL, 10);

		p.ordinal = ordinal > UINT32_MAX ? UINT32_MAX : (uint32_t)ordinal;
	}
	return p;
}

/* Whether the output that has this origin is connected now. */
static int is_connected(struct redis *r, struct str origin, bool *is, struct err *err)
{
	char name[REDIS_CLIENT_SIZE], wanted[REDIS_CLIENT_SIZE + 8];
	redisReply *got;

	redis_client_name(name, origin);
	snprintf(wanted, sizeof(wanted), " name=%s ", name);
	wire_command(&r->wire, "CLIENT", "LIST", NULL);
	if (redis_reply(&r->wire, true, &got, err))
		return -1;
	*is = got->type != REDIS_REPLY_STRING || strstr(got->str, wanted);
	freeReplyObject(got);
	return 0;
}

/* The highest id that the stream ever had. */
static int last_id(struct redis *r, struct position *p, struct err *err)
{
	redisReply *got;

	wire_command(&r->wire, "XINFO", "STREAM", r->name.p, NULL);
	if (redis_reply(&r->wire, true, &got, err))
		return -1;
	if (redis_says(got, "NOPERM")) {
		redis_fail(got, err);
		freeReplyObject(got);
		return -1;
	}
	*p = (struct position){ 0 };
	if (got->type == REDIS_REPLY_ARRAY)
		for (size_t i = 0; i + 1 < got->elements; i += 2)
			if (got->element[i]->str && got->element[i + 1]->str &&
			    strcmp(got->element[i]->str, "last-generated-id") == 0)
				*p = parse_id(got->element[i + 1]->str);
	freeReplyObject(got);
	return 0;
}

/* Writes our name, unless somebody else has written there since we looked. */
static int put_claim(struct sink *s, const struct claim *c, struct err *err)
{
	struct redis *r = s->state;
	struct strbuf value = { 0 };
	redisReply *got;
	int failed = 0;

	strbuf_printf(&value, "%" PRIu64 "-%" PRIu32 " %s", c->from.lsn, c->from.ordinal, s->origin);
	wire_command(&r->wire, "MULTI", NULL);
	wire_command(&r->wire, "HSET", REDIS_WRITERS, r->name.p, strbuf_cstr(&value), NULL);
	wire_command(&r->wire, "EXEC", NULL);
	strbuf_release(&value);
	if (redis_done(&r->wire, false, err) || redis_done(&r->wire, false, err) ||
	    redis_reply(&r->wire, false, &got, err))
		return -1;
	if (got->type != REDIS_REPLY_ARRAY)
		failed = err_set(err, ERR_RETRY, "Redis: somebody else takes streams over just now");
	freeReplyObject(got);
	return failed;
}

static int take_over(struct sink *s, struct claim *c, struct str other, struct err *err)
{
	struct redis *r = s->state;
	bool connected = false;

	if (other.n && is_connected(r, other, &connected, err))
		return -1;
	if (connected)
		return err_set(err, ERR_CONFIG,
			       "the Redis stream %s is written by another output, %.*s: give this "
			       "one a stream of its own. If that one is gone for good: redis-cli "
			       "HDEL " REDIS_WRITERS " %s",
			       r->name.p, STR_ARG(other), r->name.p);
	if (last_id(r, &c->from, err))
		return -1;
	return put_claim(s, c, err);
}

/* Makes sure that nobody else writes to the stream r->name. */
static int claim(struct sink *s, struct claim *c, struct err *err)
{
	struct redis *r = s->state;
	struct str owner = { 0 };
	redisReply *got;
	int failed;

	wire_command(&r->wire, "WATCH", REDIS_WRITERS, NULL);
	wire_command(&r->wire, "HGET", REDIS_WRITERS, r->name.p, NULL);
	if (redis_done(&r->wire, false, err) || redis_reply(&r->wire, false, &got, err))
		return -1;
	if (got->type == REDIS_REPLY_STRING) {
		c->from = parse_id(got->str);
		owner = str_c(strchr(got->str, ' ') ? strchr(got->str, ' ') + 1 : got->str);
	}
	if (str_eq(owner, str_c(s->origin))) {
		wire_command(&r->wire, "UNWATCH", NULL);
		failed = redis_done(&r->wire, false, err);
	} else {
		failed = take_over(s, c, owner, err);
	}
	freeReplyObject(got);
	return failed;
}

void redis_forget_claims(struct redis *r)
{
	for (size_t i = 0; r->claims && i < REDIS_CLAIMS; i++)
		free(r->claims[i].name);
	if (r->claims)
		memset(r->claims, 0, REDIS_CLAIMS * sizeof(*r->claims));
	r->nclaims = 0;
}

struct claim *redis_claim_of(struct redis *r, struct str name)
{
	size_t at = hash(name) % REDIS_CLAIMS;

	while (r->claims[at].name &&
	       !str_eq((struct str){ r->claims[at].name, r->claims[at].n }, name))
		at = (at + 1) % REDIS_CLAIMS;
	return &r->claims[at];
}

int redis_claim(struct sink *s, struct str name, struct err *err)
{
	struct redis *r = s->state;
	struct claim *c = redis_claim_of(r, name);

	if (c->name)
		return 0;
	if (r->nclaims >= REDIS_CLAIMS / 2) {
		redis_forget_claims(r);
		c = redis_claim_of(r, name);
	}
	r->name.n = 0;
	strbuf_str(&r->name, name);
	strbuf_cstr(&r->name);
	if (claim(s, c, err))
		return -1;
	c->name = mem_strdup(r->name.p);
	c->n = name.n;
	r->nclaims++;
	return 0;
}
