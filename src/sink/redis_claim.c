/* Whose a stream is: the hash "pgherald:writers", see redis.c. */
#include "sink/redis.h"

#include "base/mem.h"
#include "encode/encode.h"

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

/* Whether the stream's last entry, [ID, [FIELD, VALUE]], may be ours: a position that it carries is
 * its id (domain events carry another id). One that was deleted cannot be asked. */
static bool may_be_ours(const struct sink *s, const redisReply *entry, struct position id)
{
	const redisReply *fields = entry->elements == 2 ? entry->element[1] : NULL;
	struct str value;
	struct position p;

	if (!fields || !entry->element[0]->str ||
	    position_cmp(parse_id(entry->element[0]->str), id) != 0)
		return true;
	if (fields->elements != 2 || !fields->element[0]->str || !fields->element[1]->str ||
	    strcmp(fields->element[0]->str, sink_text(s, "field")) != 0)
		return false;
	value = (struct str){ fields->element[1]->str, fields->element[1]->len };
	if (!s->format->position)
		return true;
	return s->format->position(value, &p) ? position_cmp(p, id) == 0
					      : str_starts(value, STR("{\"id\":\""));
}

/* What XINFO STREAM says of the name, or NULL. */
static const redisReply *member(const redisReply *info, const char *name)
{
	for (size_t i = 0; i + 1 < info->elements; i += 2)
		if (info->element[i]->str && strcmp(info->element[i]->str, name) == 0)
			return info->element[i + 1];
	return NULL;
}

/* The highest id that the stream ever had, and whether its entry may be ours. */
static int last_id(struct sink *s, struct position *p, bool *ours, struct err *err)
{
	struct redis *r = s->state;
	const redisReply *id, *entry;
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
	id = member(got, "last-generated-id");
	if (id && id->str)
		*p = parse_id(id->str);
	entry = member(got, "last-entry");
	*ours = !entry || may_be_ours(s, entry, *p);
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
	bool connected = false, ours;

	if (other.n && is_connected(r, other, &connected, err))
		return -1;
	if (connected)
		return err_set(err, ERR_CONFIG,
			       "the Redis stream %s is written by another output, %.*s: give this "
			       "one a stream of its own. If that one is gone for good: redis-cli "
			       "HDEL " REDIS_WRITERS " %s",
			       r->name.p, STR_ARG(other), r->name.p);
	if (last_id(s, &c->from, &ours, err))
		return -1;
	c->top = c->from;
	return put_claim(s, c, err);
}

/* The stream has our name. Others may have written there all the same, as with XADD's `*`. */
static int look_again(struct sink *s, struct claim *c, struct err *err)
{
	bool ours;

	if (last_id(s, &c->top, &ours, err))
		return -1;
	if (!ours || s->learned == REDIS_LEARNED_OTHERS)
		c->from = c->top;
	return 0;
}

static int refuse_letters(struct redis *r, struct str owner, struct err *err)
{
	return err_set(
		err, ERR_CONFIG,
		"the Redis stream %s is written by the output %.*s, whose later events could "
		"not be added behind this: name another stream",
		r->name.p, STR_ARG(owner));
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
	if (s->is_dead_letter || str_eq(owner, str_c(s->origin))) {
		wire_command(&r->wire, "UNWATCH", NULL);
		failed = redis_done(&r->wire, false, err);
		if (!failed && !s->is_dead_letter)
			failed = look_again(s, c, err);
		else if (!failed && owner.n)
			failed = refuse_letters(r, owner, err);
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
