/*
 * http://... and https://... post each message. Taken when the answer is 2xx. After a crash, a cut
 * or a timeout what was under way is posted again, with the same webhook-id.
 *
 * With concurrency=N there are N lanes, each with one request at a time; messages of one key share
 * a lane, so each key is in order. A message without a key (TRUNCATE, a table without a replica
 * identity) waits until all before it are taken, and all behind wait for it.
 *
 * 408, 425, 429 and 5xx are tried again, 429 and 503 not before Retry-After. Other answers refuse
 * the message; a batch that is refused is sent in halves, so that only the message is refused that
 * is at fault. Behind a refused message nothing is posted until it is settled.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"
#include "sink/sink.h"
#include "sink/webhook_sign.h"

#include <ctype.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>

#define CONNECT_TIMEOUT_MS 10000
#define ANSWER_SHOWN 200
#define ANSWER_MOST (1u << 20)
#define ARRAY_BYTES (1u << 20)  /* an array gets no further message when it has so much */
#define RETRY_AFTER_MOST_S 3600 /* who says more is asked again after that */

/* The bytes of a header's name (RFC 9110, 5.6.2). */
#define TOKEN "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

struct item {
	const struct batch *b;
	uint32_t i;
};

struct items {
	struct item *v;
	size_t head, end, cap; /* [head, end) wait */
};

struct lane {
	CURL *easy;
	struct curl_slist *headers;
	struct items items;
	uint32_t flying; /* of the items, in the request under way; 0: none */
	uint32_t most;   /* to be put in one array */
	bool refused;    /* its last one; it goes on when that is settled */
	bool alone;      /* what it has is to be taken before anything behind */
	struct strbuf body;
	char answer[ANSWER_SHOWN];
	size_t answer_n;
	char error[CURL_ERROR_SIZE];
};

struct webhook {
	CURLM *multi;
	struct lane *lanes;
	uint32_t nlanes;
	uint32_t array; /* the most messages of a request; 1: no arrays */
	struct items queue;
	struct strbuf target;
	struct strbuf origin; /* as a header has it */
	const char *content_type;
	struct signer signer;
	bool progress; /* something was taken or refused */
};

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

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* The URL without its user, who goes into a header. */
static void put_target(struct strbuf *out, const struct sink_driver *d, const struct url *url)
{
	struct strbuf text = { 0 };
	const char *start, *end, *at;

	driver_rest(d, url, &text);
	start = strstr(strbuf_cstr(&text), "://") + 3;
	end = start + strcspn(start, "/?#");
	at = memrchr(start, '@', (size_t)(end - start));
	strbuf_add(out, text.p, (size_t)(start - text.p));
	strbuf_str(out, str_c(at ? at + 1 : start));
	strbuf_cstr(out);
	strbuf_release(&text);
}

static const char *content_type(const struct sink *s, bool array)
{
	if (strcmp(s->format->name, "cloudevents") == 0)
		return array ? "Content-Type: application/cloudevents-batch+json"
			     : "Content-Type: application/cloudevents+json";
	if (strcmp(s->format->name, "pretty") == 0)
		return "Content-Type: text/plain; charset=utf-8";
	return "Content-Type: application/json";
}

/* Keeps an answer's beginning; one without an end is cut. */
static size_t on_body(char *p, size_t size, size_t n, void *user)
{
	struct lane *lane = user;

	for (size_t i = 0; i < n && lane->answer_n + i < sizeof(lane->answer); i++)
		lane->answer[lane->answer_n + i] = (char)(iscntrl((unsigned char)p[i]) ? ' ' : p[i]);
	lane->answer_n += n;
	return lane->answer_n > ANSWER_MOST ? 0 : n;
}

static void set_text(CURL *easy, CURLoption option, const char *value)
{
	if (value)
		curl_easy_setopt(easy, option, value);
}

/* Of every request: whom to trust, how long to wait, and nothing that follows or asks. */
static void set_up(struct sink *s, CURL *easy, char *error)
{
	struct webhook *w = s->state;

	curl_easy_setopt(easy, CURLOPT_URL, w->target.p);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
	curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)sink_int(s, "timeout"));
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
	set_text(easy, CURLOPT_CAINFO, sink_text(s, "ca"));
	set_text(easy, CURLOPT_SSLCERT, sink_text(s, "cert"));
	set_text(easy, CURLOPT_SSLKEY, sink_text(s, "cert_key"));
	set_text(easy, CURLOPT_USERNAME, s->url.user);
	set_text(easy, CURLOPT_PASSWORD, s->url.password);
	if (s->url.user)
		curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
}

static void start_lane(struct sink *s, struct lane *lane)
{
	struct webhook *w = s->state;

	lane->easy = curl_easy_init();
	if (!lane->easy)
		mem_die();
	lane->most = w->array;
	set_up(s, lane->easy, lane->error);
	curl_easy_setopt(lane->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(lane->easy, CURLOPT_USERAGENT, "pgherald/" PGHERALD_VERSION);
	curl_easy_setopt(lane->easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(lane->easy, CURLOPT_WRITEDATA, lane);
	curl_easy_setopt(lane->easy, CURLOPT_PRIVATE, lane);
}

static int network(CURLcode code, const char *text, struct err *err)
{
	bool mend = code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
		    code == CURLE_SSL_CERTPROBLEM || code == CURLE_URL_MALFORMAT ||
		    code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_SSL_ISSUER_ERROR;

	return err_set(err, mend ? ERR_CONFIG : ERR_RETRY, "%s",
		       *text ? text : curl_easy_strerror(code));
}

/* Connects once, so that a host that is away or not to be trusted is known before an event is. */
static int probe(struct sink *s, struct err *err)
{
	char text[CURL_ERROR_SIZE] = "";
	CURL *easy = curl_easy_init();
	CURLcode code;

	if (!easy)
		mem_die();
	set_up(s, easy, text);
	curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
	code = curl_easy_perform(easy);
	curl_easy_cleanup(easy);
	return code ? network(code, text, err) : 0;
}

static int webhook_open(struct sink *s, struct err *err)
{
	struct webhook *w = s->state;

	pthread_once(&once, init_curl);
	w->array = (uint32_t)sink_int(s, "batch");
	put_target(&w->target, s->driver, &s->url);
	url_escape_header(&w->origin, str_c(s->origin));
	strbuf_cstr(&w->origin);
	w->content_type = content_type(s, w->array > 1);
	if (w->array > 1 && strcmp(s->format->name, "pretty") == 0)
		return err_set(err, ERR_CONFIG, "format pretty is no JSON; batch wants another one");
	if (signer_start(&w->signer, sink_text(s, "secret"), err) || probe(s, err))
		return -1;
	w->multi = curl_multi_init();
	w->nlanes = (uint32_t)sink_int(s, "concurrency");
	w->lanes = mem_array(w->nlanes, sizeof(*w->lanes));
	curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)w->nlanes);
	for (uint32_t i = 0; i < w->nlanes; i++)
		start_lane(s, &w->lanes[i]);
	return 0;
}

/* ---- one request ---- */

static void add_header(struct lane *lane, const char *name, const char *value)
{
	struct strbuf line = { 0 };
	struct curl_slist *list;

	strbuf_printf(&line, "%s: %s", name, value);
	list = curl_slist_append(lane->headers, strbuf_cstr(&line));
	if (!list)
		mem_die();
	lane->headers = list;
	strbuf_release(&line);
}

static void set_headers(struct sink *s, struct lane *lane, const struct item *first, struct str body)
{
	struct webhook *w = s->state;
	struct str rest = batch_headers(first->b, first->i);
	const char *name, *value;
	char id[POSITION_LEN + 1] = "", time[32];
	struct strbuf signature = { 0 };

	position_print(first->b->messages[first->i].position, id);
	snprintf(time, sizeof(time), "%lld", (long long)(clock_wall_us() / 1000000));
	curl_slist_free_all(lane->headers);
	lane->headers =
		curl_slist_append(NULL, rest.n ? "Content-Type: application/json" : w->content_type);
	while (batch_next_header(&rest, &name, &value))
		add_header(lane, name, value);
	add_header(lane, "webhook-id", id);
	add_header(lane, "webhook-timestamp", time);
	if (w->signer.mac) {
		signer_print(&w->signer, id, time, body, &signature);
		add_header(lane, "webhook-signature", strbuf_cstr(&signature));
		strbuf_release(&signature);
	}
	add_header(lane, "pgherald-origin", w->origin.p);
	add_header(lane, "Expect", "");
	for (size_t i = 0; i < s->url.nparams; i++)
		if (strncmp(s->url.params[i].name, "header.", 7) == 0)
			add_header(lane, s->url.params[i].name + 7, s->url.params[i].value);
	curl_easy_setopt(lane->easy, CURLOPT_HTTPHEADER, lane->headers);
}

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
	set_headers(s, lane, first, body);
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
		return network(result, lane->error, err);
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
	.state_size = sizeof(struct webhook),
	.check = webhook_check,
	.open = webhook_open,
	.send = webhook_send,
	.poll = webhook_poll,
	.close = webhook_close,
};
