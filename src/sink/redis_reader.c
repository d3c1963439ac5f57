/*
 * Reads Redis streams with XREAD, which takes nothing away and leaves groups alone. Which streams
 * there are is looked up at the start and, in small steps, from then on; those that come later are
 * read from their beginning.
 */
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "sink/reader.h"
#include "sink/redis.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOK_MS 500 /* between steps of looking for new streams */

struct read_stream {
	struct read_stream *next;
	struct strbuf name, last; /* last: the id of the last entry that was read */
};

struct redis_reader {
	struct wire wire;
	struct read_stream *streams;
	size_t nstreams;
	const char *keys;      /* names or globs; "": all */
	const char *key;       /* the one that is looked for just now; NULL: none was yet */
	struct strbuf cursor;  /* where SCAN goes on */
	bool whole;            /* streams are read from the beginning */
	int64_t looked_ms;     /* when the last step was */
	redisReply *got;       /* what XREAD has given */
	size_t stream, entry;  /* the next one in it */
	struct strbuf unusual; /* the body of an entry that has not the field */
};

/* ---- which streams ---- */

static struct read_stream *find_stream(struct redis_reader *r, struct str name)
{
	struct read_stream *s = r->streams;

	while (s && !str_eq(strbuf_view(&s->name), name))
		s = s->next;
	return s;
}

/* Remembers the id of the stream's last entry. */
static int skip_to_end(struct redis_reader *r, struct read_stream *s, struct err *err)
{
	redisReply *got;

	wire_begin(&r->wire, 6);
	wire_word(&r->wire, STR("XREVRANGE"));
	wire_word(&r->wire, strbuf_view(&s->name));
	wire_word(&r->wire, STR("+"));
	wire_word(&r->wire, STR("-"));
	wire_word(&r->wire, STR("COUNT"));
	wire_word(&r->wire, STR("1"));
	if (redis_reply(&r->wire, true, &got, err))
		return -1;
	if (redis_says(got, "WRONGTYPE")) {
		freeReplyObject(got);
		return err_set(err, ERR_CONFIG, "%s is not a stream", strbuf_cstr(&s->name));
	}
	if (got->type == REDIS_REPLY_ARRAY && got->elements == 1) {
		s->last.n = 0;
		strbuf_add(&s->last, got->element[0]->element[0]->str,
			   got->element[0]->element[0]->len);
	}
	freeReplyObject(got);
	return 0;
}

static int add_stream(struct redis_reader *r, struct str name, struct err *err)
{
	struct read_stream *s;

	if (find_stream(r, name))
		return 0;
	s = mem_alloc(sizeof(*s));
	strbuf_str(&s->name, name);
	strbuf_lit(&s->last, "0");
	s->next = r->streams;
	r->streams = s;
	r->nstreams++;
	return r->whole ? 0 : skip_to_end(r, s, err);
}

/* Goes to the next key, round and round. Returns whether all have been gone through. */
static bool next_key(struct redis_reader *r)
{
	const char *comma = r->key ? strchr(r->key, ',') : NULL;

	r->cursor.n = 0;
	strbuf_lit(&r->cursor, "0");
	r->key = comma ? comma + 1 : r->keys;
	return !comma;
}

/* One step of the search. Sets *over when it has found all that there is. */
static int scan(struct redis_reader *r, bool *over, struct err *err)
{
	struct str key = { r->key, strcspn(r->key, ",") };
	redisReply *got;
	int failed = 0;

	wire_begin(&r->wire, 8);
	wire_word(&r->wire, STR("SCAN"));
	wire_word(&r->wire, strbuf_view(&r->cursor));
	wire_word(&r->wire, STR("MATCH"));
	wire_word(&r->wire, key.n ? key : STR("*"));
	wire_word(&r->wire, STR("COUNT"));
	wire_word(&r->wire, STR("1000"));
	wire_word(&r->wire, STR("TYPE"));
	wire_word(&r->wire, STR("stream"));
	if (redis_reply(&r->wire, true, &got, err))
		return -1;
	if (got->type != REDIS_REPLY_ARRAY || got->elements != 2) {
		failed = redis_says(got, "ERR syntax")
				 ? err_set(err,
					   ERR_CONFIG, "Redis 6 is needed to find streams: name them, --keys a,b")
				 : redis_fail(got, err);
		freeReplyObject(got);
		return failed;
	}
	r->cursor.n = 0;
	strbuf_add(&r->cursor, got->element[0]->str, got->element[0]->len);
	for (size_t i = 0; i < got->element[1]->elements && !failed; i++) {
		const redisReply *name = got->element[1]->element[i];

		failed = add_stream(r, (struct str){ name->str, name->len }, err);
	}
	freeReplyObject(got);
	*over = str_eq(strbuf_view(&r->cursor), STR("0")) && next_key(r);
	return failed;
}

static int look_for_streams(struct redis_reader *r, bool *over, struct err *err)
{
	struct str key = { r->key, strcspn(r->key, ",") };

	r->looked_ms = clock_ms();
	if (!key.n || memchr(key.p, '*', key.n) || memchr(key.p, '?', key.n) ||
	    memchr(key.p, '[', key.n))
		return scan(r, over, err);
	if (add_stream(r, key, err))
		return -1;
	*over = next_key(r);
	return 0;
}

static int reader_redis_open(struct reader *reader, struct err *err)
{
	struct redis_reader *r = reader->state;
	bool over = false;

	r->wire.fd = -1;
	r->keys = reader_addresses(reader, &sink_redis, 0, 0);
	r->whole = reader_from_beginning(reader);
	if (sink_redis.check(&reader->url, err) || redis_connect(&r->wire, &reader->url, err))
		return -1;
	next_key(r);
	while (!over)
		if (look_for_streams(r, &over, err))
			return -1;
	r->whole = true;
	return 0;
}

/* ---- what is in them ---- */

static void forget(struct redis_reader *r)
{
	if (r->got)
		freeReplyObject(r->got);
	r->got = NULL;
	r->stream = r->entry = 0;
}

static int ask(struct redis_reader *r, int timeout_ms, struct err *err)
{
	char wait[12];

	snprintf(wait, sizeof(wait), "%d", timeout_ms > 0 ? timeout_ms : 1);
	wire_begin(&r->wire, 6 + 2 * r->nstreams);
	wire_word(&r->wire, STR("XREAD"));
	wire_word(&r->wire, STR("COUNT"));
	wire_word(&r->wire, STR("100"));
	wire_word(&r->wire, STR("BLOCK"));
	wire_word(&r->wire, str_c(wait));
	wire_word(&r->wire, STR("STREAMS"));
	for (const struct read_stream *s = r->streams; s; s = s->next)
		wire_word(&r->wire, strbuf_view(&s->name));
	for (const struct read_stream *s = r->streams; s; s = s->next)
		wire_word(&r->wire, strbuf_view(&s->last));
	return redis_reply(&r->wire, false, &r->got, err);
}

/* The field's value; of entries that lack it, all fields as a JSON object. */
static struct str body_of(struct redis_reader *r, const char *field, const redisReply *fields)
{
	struct strbuf *out = &r->unusual;

	for (size_t i = 0; i + 1 < fields->elements; i += 2)
		if (str_eq((struct str){ fields->element[i]->str, fields->element[i]->len },
			   str_c(field)))
			return (struct str){ fields->element[i + 1]->str,
					     fields->element[i + 1]->len };
	out->n = 0;
	strbuf_ch(out, '{');
	for (size_t i = 0; i < fields->elements; i++) {
		if (i)
			strbuf_ch(out, i % 2 ? ':' : ',');
		json_string_checked(out, (struct str){ fields->element[i]->str,
						       fields->element[i]->len });
	}
	strbuf_ch(out, '}');
	return strbuf_view(out);
}

/* The next entry of what was read: 1, or 0 when there is none left. */
static int take(struct redis_reader *r, const char *field, struct reader_message *m)
{
	while (r->got && r->got->type == REDIS_REPLY_ARRAY && r->stream < r->got->elements) {
		const redisReply *stream = r->got->element[r->stream], *name = stream->element[0];
		const redisReply *entry;
		struct read_stream *s;

		if (r->entry == stream->element[1]->elements) {
			r->stream++;
			r->entry = 0;
			continue;
		}
		entry = stream->element[1]->element[r->entry++];
		m->address = (struct str){ name->str, name->len };
		m->id = (struct str){ entry->element[0]->str, entry->element[0]->len };
		m->body = body_of(r, field, entry->element[1]);
		s = find_stream(r, m->address);
		s->last.n = 0;
		strbuf_str(&s->last, m->id);
		return 1;
	}
	return 0;
}

static int reader_redis_next(struct reader *reader, int timeout_ms, struct reader_message *m,
			     struct err *err)
{
	struct redis_reader *r = reader->state;
	const char *field = driver_text(&sink_redis, &reader->url, "field");
	struct pollfd pfd = { r->wire.fd, POLLIN, 0 };
	bool over;

	*m = (struct reader_message){ 0 };
	if (take(r, field, m))
		return 1;
	forget(r);
	if (clock_ms() - r->looked_ms >= LOOK_MS && look_for_streams(r, &over, err))
		return -1;
	if (r->nstreams == 0)
		return poll(&pfd, 1, timeout_ms) > 0 ? wire_check_idle(&r->wire, err) : 0;
	return ask(r, timeout_ms, err) ? -1 : take(r, field, m);
}

static void reader_redis_close(struct reader *reader)
{
	struct redis_reader *r = reader->state;

	forget(r);
	while (r->streams) {
		struct read_stream *s = r->streams;

		r->streams = s->next;
		strbuf_release(&s->name);
		strbuf_release(&s->last);
		free(s);
	}
	strbuf_release(&r->cursor);
	strbuf_release(&r->unusual);
	wire_close(&r->wire);
}

static const struct sink_param params[] = { PARAM_FROM, { 0 } };

const struct reader_driver reader_redis = {
	.name = "redis",
	.schemes = (const char *const[]){ "redis", "rediss", NULL },
	.help = "redis://HOST/STREAM  looks on at streams",
	.params = params,
	.state_size = sizeof(struct redis_reader),
	.open = reader_redis_open,
	.next = reader_redis_next,
	.close = reader_redis_close,
};
