/*
 * redis://HOST/STREAM appends to Redis streams. Taken when Redis has replied; how durable that is
 * is Redis's configuration (appendonly, appendfsync).
 *
 * An entry's id is the event's position: LSN, dash, ordinal. Ids only grow in a stream, so Redis
 * itself refuses what comes again after a crash, and that counts as taken. This holds only while
 * one output writes to a stream. Hence the hash "pgherald:writers" says for each stream who writes
 * it and from which id on ("ID ORIGIN"); who finds another's name there takes the stream over if
 * that one is not connected, and fails otherwise. What is refused from before one's own time, or
 * below an id that may not be ours, is only taken when it is there.
 *
 * Several entries go as one transaction. Were they only pipelined, Redis could refuse one because
 * memory is full and take the next: then the first could never come. For the same reason the next
 * transaction's EXEC waits for the reply to the one before; what it is made of is queued meanwhile.
 *
 * Dead letters have ids that Redis makes, and may come twice.
 */
#include "sink/redis.h"

#include "base/mem.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* What is written before the transaction is complete. */
#define PUSH_BYTES 65536

static size_t redis_address_at(const struct url *url)
{
	size_t n;

	if (redis_database(url, &n) < 0)
		return 1;
	return 1 + n + (url->path[1 + n] == '/');
}

/* The largest string that the server takes, where it tells. */
static int ask_limit(struct redis *r, struct err *err)
{
	redisReply *got;

	r->max_bulk = (size_t)512 << 20;
	wire_command(&r->wire, "CONFIG", "GET", "proto-max-bulk-len", NULL);
	if (redis_reply(&r->wire, true, &got, err))
		return -1;
	if (got->type == REDIS_REPLY_ARRAY && got->elements == 2 && got->element[1]->str)
		r->max_bulk = strtoull(got->element[1]->str, NULL, 10);
	freeReplyObject(got);
	return 0;
}

/* Takes over the words that were put onto the connection. */
static void keep_words(struct redis *r, struct strbuf *out)
{
	strbuf_str(out, strbuf_view(&r->wire.out));
	r->wire.out.n = 0;
}

static void make_words(struct sink *s)
{
	struct redis *r = s->state;
	const char *maxlen = sink_text(s, "maxlen");

	wire_begin(&r->wire, maxlen ? 8 : 5);
	wire_word(&r->wire, STR("XADD"));
	keep_words(r, &r->xadd);
	if (maxlen) {
		wire_word(&r->wire, STR("MAXLEN"));
		wire_word(&r->wire, STR("~"));
		wire_word(&r->wire, str_c(maxlen));
		keep_words(r, &r->trim);
	}
	wire_word(&r->wire, str_c(sink_text(s, "field")));
	keep_words(r, &r->field);
}

static int redis_open(struct sink *s, struct err *err)
{
	struct redis *r = s->state;

	r->claims = mem_array(REDIS_CLAIMS, sizeof(*r->claims));
	redis_client_name(r->client, str_c(s->origin));
	if (redis_connect(&r->wire, &s->url, err) || ask_limit(r, err))
		return -1;
	wire_command(&r->wire, "CLIENT", "SETNAME", r->client, NULL);
	if (redis_done(&r->wire, true, err))
		return -1;
	wire_command(&r->wire, "PING", NULL);
	if (redis_done(&r->wire, false, err))
		return -1;
	make_words(s);
	return 0;
}

static struct str entry_id(struct redis *r, struct position p)
{
	char digits[36], *at = digits + sizeof(digits);
	uint64_t parts[2] = { p.ordinal, p.lsn };

	for (int i = 0; i < 2; i++) {
		do {
			*--at = (char)('0' + parts[i] % 10);
			parts[i] /= 10;
		} while (parts[i]);
		if (i == 0)
			*--at = '-';
	}
	r->id.n = 0;
	strbuf_add(&r->id, at, (size_t)(digits + sizeof(digits) - at));
	return strbuf_view(&r->id);
}

static void put_entry(struct sink *s, const struct batch *b, uint32_t i)
{
	struct redis *r = s->state;

	strbuf_str(&r->wire.out, strbuf_view(&r->xadd));
	wire_word(&r->wire, batch_address(b, i));
	strbuf_str(&r->wire.out, strbuf_view(&r->trim));
	wire_word(&r->wire, s->is_dead_letter ? STR("*") : entry_id(r, b->messages[i].position));
	strbuf_str(&r->wire.out, strbuf_view(&r->field));
	wire_word(&r->wire, batch_body(b, i));
}

/* Whether an entry's id is from before our own time in its stream. */
static bool is_old(const struct claim *c, struct position id)
{
	return !c->name || position_cmp(id, c->from) <= 0;
}

/* Somebody has written between our entries. What of ours is there is looked at from now on. */
static int fail_overtaken(struct sink *s, struct str name, struct err *err)
{
	s->learned = REDIS_LEARNED_OTHERS;
	return err_set(err, ERR_RETRY, "the Redis stream %.*s is written by others too",
		       STR_ARG(name));
}

/* Whether a refused entry is in the stream all the same. Ids from our own time that were there when
 * we connected are: only we have written since, and ids only grow. (It may have been trimmed or
 * deleted again.) */
static int was_written(struct sink *s, const struct batch *b, uint32_t i, struct err *err)
{
	struct redis *r = s->state;
	struct str name = batch_address(b, i), id = entry_id(r, b->messages[i].position);
	const struct claim *c = redis_claim_of(r, name);
	redisReply *got;
	bool found;

	if (c->name ? position_cmp(b->messages[i].position, c->top) > 0 : !r->sent.old)
		return fail_overtaken(s, name, err);
	if (!is_old(c, b->messages[i].position))
		return 0;
	wire_begin(&r->wire, 4);
	wire_word(&r->wire, STR("XRANGE"));
	wire_word(&r->wire, name);
	wire_word(&r->wire, id);
	wire_word(&r->wire, id);
	if (redis_reply(&r->wire, false, &got, err))
		return -1;
	found = got->type == REDIS_REPLY_ARRAY && got->elements == 1;
	freeReplyObject(got);
	if (found)
		return 0;
	return err_set(err, ERR_CONFIG,
		       "the Redis stream %.*s has higher ids than %.*s, from another output or "
		       "server, so that this event cannot be added: name another stream, or move "
		       "that one away with redis-cli RENAME",
		       STR_ARG(name), STR_ARG(id));
}

/* An entry was added. */
static void raise_top(struct redis *r, const struct batch *b, uint32_t i)
{
	struct claim *c = redis_claim_of(r, batch_address(b, i));

	if (c->name)
		c->top = b->messages[i].position;
}

/* The reply to one XADD. */
static int take_reply(struct sink *s, const struct batch *b, uint32_t i, const redisReply *got,
		      struct err *err)
{
	struct redis *r = s->state;
	uint64_t seq = b->first + i;

	if (redis_says(got, "WRONGTYPE")) {
		sink_refuse(s, seq, "its address is a key that is not a stream");
		return 0;
	}
	if (got->type == REDIS_REPLY_ERROR && !strstr(got->str, "equal or smaller than"))
		return redis_fail(got, err);
	if (got->type != REDIS_REPLY_ERROR)
		raise_top(r, b, i);
	else if (was_written(s, b, i, err))
		return -1;
	sink_ack(s, seq);
	return 0;
}

/* The replies to MULTI and to what was put into the transaction. The first error tells why EXEC
 * will fail. */
static int take_queued(struct redis *r, struct err *err)
{
	int failed = 0;

	for (uint32_t i = 0; i <= r->sent.n; i++) {
		redisReply *got;

		if (redis_reply(&r->wire, true, &got, err))
			return -1;
		if (got->type == REDIS_REPLY_ERROR && !failed)
			failed = redis_fail(got, err);
		freeReplyObject(got);
	}
	return failed;
}

static int take_transaction(struct sink *s, struct err *err)
{
	struct redis *r = s->state;
	const struct redis_entries *e = &r->sent;
	redisReply *got;
	int failed = 0;

	if (take_queued(r, err) || redis_reply(&r->wire, false, &got, err))
		return -1;
	if (got->type != REDIS_REPLY_ARRAY || got->elements != e->n)
		failed = redis_fail(got, err);
	for (uint32_t i = 0; i < e->n && !failed; i++)
		failed = take_reply(s, e->batch, e->v[i], got->element[i], err);
	freeReplyObject(got);
	return failed;
}

static int take_single(struct sink *s, struct err *err)
{
	struct redis *r = s->state;
	redisReply *got;
	int failed;

	if (redis_reply(&r->wire, true, &got, err))
		return -1;
	failed = take_reply(s, r->sent.batch, r->sent.v[0], got, err);
	freeReplyObject(got);
	return failed;
}

/* Waits for the replies to what was sent last, if there are any to come. */
static int take_sent(struct sink *s, struct err *err)
{
	struct redis *r = s->state;

	if (r->sent.n && (r->sent.n > 1 ? take_transaction(s, err) : take_single(s, err)))
		return -1;
	r->sent.n = 0;
	return 0;
}

/* The claim on a stream, which is made first if need be; NULL for an error. */
static const struct claim *claim(struct sink *s, struct str name, struct err *err)
{
	const struct claim *c = redis_claim_of(s->state, name);

	if (c->name)
		return c;
	return take_sent(s, err) || redis_claim(s, name, err) ? NULL : redis_claim_of(s->state, name);
}

/* Chooses what can be sent, and claims its streams. */
static int choose(struct sink *s, const struct batch *b, uint32_t from, uint32_t to, struct err *err)
{
	struct redis *r = s->state;
	struct redis_entries *e = &r->next;

	if (to - from > e->cap) {
		e->cap = to - from;
		e->v = mem_realloc(e->v, e->cap * sizeof(*e->v));
	}
	e->batch = b;
	e->n = 0;
	e->old = false;
	for (uint32_t i = from; i < to; i++) {
		struct str name = batch_address(b, i);
		const struct claim *c;

		if (batch_body(b, i).n > r->max_bulk) {
			sink_refuse(s, b->first + i,
				    "it is larger than the server's proto-max-bulk-len");
			continue;
		}
		if (name.n == 0 || memchr(name.p, 0, name.n)) {
			sink_refuse(s, b->first + i, "its address is empty");
			continue;
		}
		c = claim(s, name, err);
		if (!c)
			return -1;
		e->old |= is_old(c, b->messages[i].position);
		e->v[e->n++] = i;
	}
	return 0;
}

static int redis_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		      struct err *err)
{
	struct redis *r = s->state;
	struct redis_entries *e = &r->next, done;

	if (choose(s, b, from, to, err))
		return -1;
	if (e->n == 0)
		return 0;
	if ((e->n == 1 || r->sent.old) && take_sent(s, err))
		return -1;
	if (e->n > 1)
		wire_command(&r->wire, "MULTI", NULL);
	for (uint32_t i = 0; i < e->n; i++) {
		put_entry(s, b, e->v[i]);
		if (r->wire.out.n - r->wire.written > PUSH_BYTES && wire_push(&r->wire, err))
			return err_add(err, "Redis");
	}
	if (take_sent(s, err))
		return -1;
	if (e->n > 1)
		wire_command(&r->wire, "EXEC", NULL);
	done = r->sent;
	r->sent = *e;
	r->next = done;
	return wire_push(&r->wire, err) ? err_add(err, "Redis") : 0;
}

static int redis_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct redis *r = s->state;
	struct pollfd pfd[2] = { { r->wire.fd, POLLIN, 0 }, { s->wake, POLLIN, 0 } };

	if (r->sent.n) /* more may follow at once: then its replies are taken while that is queued */
		return timeout_ms ? take_sent(s, err) : 0;
	if (poll(pfd, 2, timeout_ms) > 0 && pfd[0].revents && wire_check_idle(&r->wire, err))
		return err_add(err, "Redis");
	return 0;
}

static void redis_close(struct sink *s)
{
	struct redis *r = s->state;

	wire_close(&r->wire);
	redis_forget_claims(r);
	free(r->claims);
	free(r->next.v);
	free(r->sent.v);
	strbuf_release(&r->name);
	strbuf_release(&r->id);
	strbuf_release(&r->xadd);
	strbuf_release(&r->trim);
	strbuf_release(&r->field);
}

static int redis_check(const struct url *url, struct err *err)
{
	if (url->nhosts == 0)
		return err_set(err, ERR_CONFIG, "it names no host, as redis://HOST/STREAM does");
	if (url->user && url->user[0] && !url->password)
		return err_set(
			err, ERR_CONFIG,
			"it has a user without a password; a password alone is redis://:PW@HOST");
	return 0;
}

/* Keys may be any bytes; these are what people and their tools can handle. */
static bool is_plain(unsigned char c)
{
	return c > ' ' && c != 127 && c != '%' && c != ':' && c != '.';
}

static const struct sink_param params[] = {
	{ "maxlen", PARAM_INT, "N", NULL, 1, INT64_MAX,
	  "trim each stream to about N entries (MAXLEN ~ N)" },
	{ "field", PARAM_TEXT, "NAME", "event", 1, 255, "the entry's field that holds the event" },
	{ "timeout", PARAM_INT, "SECONDS", "10", 1, 3600, "how long Redis may take for a reply" },
	PARAMS_TLS,
	{ 0 },
};

const struct sink_driver sink_redis = {
	.name = "redis",
	.one_order = true,
	.schemes = (const char *const[]){ "redis", "rediss", NULL },
	.help = "redis://HOST[:6379][/DB]/STREAM  appends to Redis streams; taken when Redis "
		"replied",
	.params = params,
	.address = "{db}.{schema}.{table}",
	.address_in_path = true,
	.address_at = redis_address_at,
	.address_plain = is_plain,
	.address_escape = '%',
	.state_size = sizeof(struct redis),
	.check = redis_check,
	.open = redis_open,
	.send = redis_send,
	.poll = redis_poll,
	.flush = take_sent,
	.close = redis_close,
};
