/*
 * http://... and https://... post each message. Taken when the answer is 2xx. After a crash, a cut
 * or a timeout what was under way is posted again, with the same webhook-id.
 *
 * With concurrency=N there are N lanes, each with one request at a time; messages of one key share
 * a lane, so each key is in order. A message without a key (TRUNCATE, a table without a replica
 * identity, an update that changes the key) waits until all before it are taken, and all behind
 * wait for it.
 *
 * 408, 425, 429 and 5xx are tried again, 429 and 503 not before Retry-After. Other answers refuse
 * the message; a batch that is refused is sent in halves, so that only the message is refused that
 * is at fault. Behind a refused message nothing is posted until it is settled.
 */
#include "sink/webhook.h"

#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"

#include <ctype.h>
#include <stdlib.h>

#define ARRAY_BYTES (1u << 20)  /* an array gets no further message when it has so much */
#define RETRY_AFTER_MOST_S 3600 /* who says more is asked again after that */

/* The bytes of a header's name (RFC 9110, 5.6.2). */
#define TOKEN "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* ---- items ---- */

static void items_put(struct items *q, struct item item)
{
	if (q->head == q->end)
		q->head = q->end = 0;
	if (q->end == q->cap && q->head > q->cap / 2) {
		memmove(q->v, q->v + q->head, (q->end - q->head) * sizeof(*q->v));
		q->end -= q->head;
		q->head = 0;
	} else if (q->end == q->cap) {
		q->cap = q->cap ? q->cap * 2 : 64;
		q->v = mem_realloc(q->v, q->cap * sizeof(*q->v));
	}
	q->v[q->end++] = item;
}

static size_t items_n(const struct items *q)
{
	return q->end - q->head;
}

static uint64_t item_seq(const struct item *item)
{
	return item->b->first + item->i;
}

/* ---- opening ---- */

static int webhook_open(struct sink *s, struct err *err)
{
	struct webhook *w = s->state;

	webhook_request_init();
	w->array = (uint32_t)sink_int(s, "batch");
	webhook_request_prepare(s);
	if (w->array > 1 && strcmp(s->format->name, "pretty") == 0)
		return err_set(err, ERR_CONFIG, "format pretty is no JSON; batch wants another one");
	if (signer_start(&w->signer, sink_text(s, "secret"), err) || webhook_request_probe(s, err))
		return -1;
	w->multi = curl_multi_init();
	w->nlanes = (uint32_t)sink_int(s, "concurrency");
	w->lanes = mem_array(w->nlanes, sizeof(*w->lanes));
	curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)w->nlanes);
	for (uint32_t i = 0; i < w->nlanes; i++)
		webhook_request_open(s, &w->lanes[i]);
	return 0;
}

/* ---- one request ---- */

/* The body: the one message, or an array of as many as wait, up to lane->most. */
static struct str take_body(const struct webhook *w, struct lane *lane)
{
	struct item *v = &lane->items.v[lane->items.head];
	size_t n = items_n(&lane->items), size = 0;

	if (w->array == 1) {
		lane->flying = 1;
		return batch_body(v[0].b, v[0].i);
	}
	strbuf_shrink(&lane->body, ARRAY_BYTES * 2);
	lane->body.n = 0;
	for (lane->flying = 0; lane->flying < n && lane->flying < lane->most; lane->flying++) {
		struct str body = batch_body(v[lane->flying].b, v[lane->flying].i);

		size += body.n;
		if (lane->flying && size > ARRAY_BYTES)
			break;
		strbuf_ch(&lane->body, lane->flying ? ',' : '[');
		strbuf_str(&lane->body, body);
	}
	strbuf_ch(&lane->body, ']');
	return strbuf_view(&lane->body);
}

static void post(struct sink *s, struct lane *lane)
{
	struct webhook *w = s->state;
	struct item *first = &lane->items.v[lane->items.head];
	struct str body = take_body(w, lane);

	lane->answer_n = 0;
	lane->error[0] = '\0';
	webhook_request_headers(s, lane, first, body);
	curl_easy_setopt(lane->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.n);
	curl_easy_setopt(lane->easy, CURLOPT_POSTFIELDS, body.p);
	curl_multi_add_handle(w->multi, lane->easy);
}

/* ---- what was answered ---- */

static void taken(struct sink *s, struct lane *lane)
{
	struct webhook *w = s->state;

	for (uint32_t i = 0; i < lane->flying; i++)
		sink_ack(s, item_seq(&lane->items.v[lane->items.head++]));
	lane->most = lane->most * 2 < w->array ? lane->most * 2 : w->array;
	w->progress = true;
}

static int answer_shown(const struct lane *lane)
{
	return (int)(lane->answer_n < ANSWER_SHOWN ? lane->answer_n : ANSWER_SHOWN);
}

static int again_later(struct sink *s, struct lane *lane, long code, struct err *err)
{
	curl_off_t wait = 0;

	if (code == 429 || code == 503)
		curl_easy_getinfo(lane->easy, CURLINFO_RETRY_AFTER, &wait);
	if (wait > RETRY_AFTER_MOST_S)
		wait = RETRY_AFTER_MOST_S;
	if (wait > 0)
		s->not_before = clock_ms() + wait * 1000;
	return err_set(err, ERR_RETRY, "HTTP %ld%s%.*s", code, lane->answer_n ? ": " : "",
		       answer_shown(lane), lane->answer);
}

static void refused(struct sink *s, struct lane *lane, long code)
{
	struct webhook *w = s->state;
	struct err why;
	const char *to = NULL;

	w->progress = true;
	if (lane->flying > 1) { /* which one is it? */
		lane->most = lane->flying / 2;
		return;
	}
	curl_easy_getinfo(lane->easy, CURLINFO_REDIRECT_URL, &to);
	if (code / 100 == 3)
		err_set(&why,
			ERR_REJECT, "HTTP %ld points to %.300s; redirects are not followed: name the place itself",
			code, to ? to : "another place");
	else
		err_set(&why, ERR_REJECT, "HTTP %ld%s%.*s", code, lane->answer_n ? ": " : "",
			answer_shown(lane), lane->answer);
	sink_refuse(s, item_seq(&lane->items.v[lane->items.head++]), why.msg);
	lane->refused = true;
}

static int answered(struct sink *s, struct lane *lane, CURLcode result, struct err *err)
{
	long code = 0;
	int failed = 0;

	curl_easy_getinfo(lane->easy, CURLINFO_RESPONSE_CODE, &code);
	if (result && !(result == CURLE_WRITE_ERROR && code))
		return webhook_request_failed(result, lane->error, err);
	if (code / 100 == 2)
		taken(s, lane);
	else if (code == 401 || code == 407)
		failed = err_set(err, ERR_CONFIG,
				 "HTTP %ld: the user, password or header of authorization is wrong",
				 code);
	else if (code / 100 == 3 || (code / 100 == 4 && code != 408 && code != 425 && code != 429))
		refused(s, lane, code);
	else
		failed = again_later(s, lane, code, err);
	lane->flying = 0;
	return failed;
}

/* All answers are looked at, also behind one that ends the connection: what is taken is taken. */
static int collect(struct sink *s, struct err *err)
{
	struct webhook *w = s->state;
	struct err other;
	CURLMsg *msg;
	int failed = 0, left;

	while ((msg = curl_multi_info_read(w->multi, &left))) {
		CURL *easy = msg->easy_handle;
		CURLcode result = msg->data.result;
		struct lane *lane;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&lane);
		if (answered(s, lane, result, failed ? &other : err))
			failed = -1;
		curl_multi_remove_handle(w->multi, easy);
	}
	return failed;
}

/* ---- lanes ---- */

static uint32_t lane_of(const struct webhook *w, struct str key)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a */

	for (size_t i = 0; i < key.n; i++)
		h = (h ^ (unsigned char)key.p[i]) * 0x100000001b3;
	return (uint32_t)((h ^ h >> 32) % w->nlanes);
}

static bool all_idle(const struct webhook *w)
{
	for (uint32_t i = 0; i < w->nlanes; i++)
		if (items_n(&w->lanes[i].items) || w->lanes[i].refused)
			return false;
	return true;
}

/* The lane that the message may go to now, or NULL. */
static struct lane *choose(struct webhook *w, const struct item *item)
{
	struct str key = batch_key(item->b, item->i), table = batch_table(item->b, item->i);
	struct lane *first = &w->lanes[0];

	if (w->nlanes <= 1)
		return first;
	if (first->alone && all_idle(w))
		first->alone = false;
	if (key.n == 0) {
		if (!first->alone && !all_idle(w))
			return NULL;
		first->alone = true;
		return first;
	}
	/* the table is part of what the key is a key of, and stands right behind it */
	return first->alone ? NULL : &w->lanes[lane_of(w, (struct str){ key.p, key.n + table.n })];
}

static void distribute(struct webhook *w)
{
	struct lane *lane;

	while (items_n(&w->queue) && (lane = choose(w, &w->queue.v[w->queue.head])))
		items_put(&lane->items, w->queue.v[w->queue.head++]);
}

/* Posts what may be posted. What was refused is settled between our calls, but for the end. */
static void pump(struct sink *s)
{
	struct webhook *w = s->state;
	bool ending = sink_ending(s);

	for (uint32_t i = 0; i < w->nlanes; i++)
		if (!ending)
			w->lanes[i].refused = false;
	distribute(w);
	for (uint32_t i = 0; i < w->nlanes; i++) {
		struct lane *lane = &w->lanes[i];

		if (!lane->flying && !lane->refused && items_n(&lane->items))
			post(s, lane);
	}
}

static int look(struct sink *s, struct err *err)
{
	struct webhook *w = s->state;
	int running;

	pump(s);
	curl_multi_perform(w->multi, &running);
	return collect(s, err);
}

static int webhook_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
			struct err *err)
{
	struct webhook *w = s->state;

	if (w->array > 1 && b->messages[from].headers_n)
		return err_set(err, ERR_CONFIG,
			       "an array has no headers for cloudevents_mode=binary: leave out "
			       "batch=");
	for (uint32_t i = from; i < to; i++)
		items_put(&w->queue, (struct item){ b, i });
	return 0;
}

static int webhook_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct webhook *w = s->state;
	struct curl_waitfd wake = { s->wake, CURL_WAIT_POLLIN, 0 };

	w->progress = false;
	if (look(s, err))
		return -1;
	if (w->progress || timeout_ms == 0)
		return 0;
	curl_multi_poll(w->multi, &wake, 1, timeout_ms < 0 ? 60000 : timeout_ms, NULL);
	return look(s, err);
}

static void webhook_close(struct sink *s)
{
	struct webhook *w = s->state;

	for (uint32_t i = 0; w->lanes && i < w->nlanes; i++) {
		struct lane *lane = &w->lanes[i];

		curl_multi_remove_handle(w->multi, lane->easy);
		curl_easy_cleanup(lane->easy);
		curl_slist_free_all(lane->headers);
		strbuf_release(&lane->body);
		free(lane->items.v);
	}
	free(w->lanes);
	free(w->queue.v);
	curl_multi_cleanup(w->multi);
	signer_stop(&w->signer);
	strbuf_release(&w->target);
	strbuf_release(&w->origin);
}

static int check_header(const struct url_param *p, struct err *err)
{
	const char *name = p->name + sizeof("header.") - 1;

	if (name[strspn(name, TOKEN)])
		return err_set(err, ERR_CONFIG, "%.50s: a header has no such name", p->name);
	for (const char *c = p->value; *c; c++)
		if (iscntrl((unsigned char)*c) && *c != '\t')
			return err_set(err, ERR_CONFIG, "%.50s: its value has a control character",
				       p->name);
	return 0;
}

static int webhook_check(const struct url *url, struct err *err)
{
	struct signer trial = { 0 };
	int failed;

	if (url->nhosts != 1)
		return err_set(err, ERR_CONFIG, "it names %s host, as https://HOST/PATH does",
			       url->nhosts ? "more than one" : "no");
	for (size_t i = 0; i < url->nparams; i++)
		if (strncmp(url->params[i].name, "header.", 7) == 0 &&
		    check_header(&url->params[i], err))
			return -1;
	failed = signer_start(&trial, url_param(url, "secret"), err);
	signer_stop(&trial);
	return failed;
}

static const struct sink_param params[] = {
	{ "secret", PARAM_TEXT, "SECRET", NULL, 1,
	  512, "signs requests as Standard Webhooks has it; bytes in base64 behind whsec_, else as it is" },
	{ "batch", PARAM_INT, "N", "1", 1, 10000,
	  "more than 1: posts arrays of up to so many events" },
	{ "concurrency", PARAM_INT, "N", "1", 1, 64, "requests at a time; each key is in order" },
	{ "timeout", PARAM_INT, "SECONDS", "10", 1, 600, "how long an answer may take" },
	{ "header.*", PARAM_TEXT, "VALUE", NULL, 1, 4096, "a header, as header.Authorization=..." },
	PARAMS_TLS,
	{ "*", PARAM_TEXT, "VALUE", NULL, 0, 4096, "the target's own; stays in its query" },
	{ 0 },
};

static const struct header_style headers = { "ce-", NULL, true };

const struct sink_driver sink_webhook = {
	.name = "webhook",
	.headers = &headers,
	.schemes = (const char *const[]){ "http", "https", NULL },
	.help = "https://HOST/PATH  posts events; taken when the answer is 2xx",
	.params = params,
	.keys = true,
	.key_order = true,
	.state_size = sizeof(struct webhook),
	.check = webhook_check,
	.open = webhook_open,
	.send = webhook_send,
	.poll = webhook_poll,
	.close = webhook_close,
};
