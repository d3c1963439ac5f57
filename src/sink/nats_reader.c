/*
 * Reads from NATS. With stream=NAME from the stream, by a consumer that acknowledges nothing and
 * goes when it ends; with durable=NAME too by that consumer, which is made where it is missing,
 * and what has been shown is acknowledged. Without a stream it looks on at what is published.
 */
#include "sink/nats.h"
#include "sink/reader.h"

#include <stdio.h>

struct nats_reader {
	natsConnection *nc;
	jsCtx *js;
	natsSubscription *sub;
	natsMsg *message;
	const char *stream, *durable; /* or NULL */
	const char *keys;             /* "": all */
	bool choosing;                /* the server sends all: it takes one key, and not any */
};

static struct str first_part(struct str s)
{
	const char *dot = memchr(s.p, '.', s.n);

	return (struct str){ s.p, dot ? (size_t)(dot - s.p) : s.n };
}

/* Whether the subject is one of the key's, with * for a part and > for all that follow. */
static bool matches(struct str key, struct str subject)
{
	while (key.n && subject.n) {
		struct str a = first_part(key), b = first_part(subject);

		if (str_eq(a, STR(">")))
			return true;
		if (!str_eq(a, STR("*")) && !str_eq(a, b))
			return false;
		key = str_from(key, a.n + (a.n < key.n));
		subject = str_from(subject, b.n + (b.n < subject.n));
	}
	return key.n == 0 && subject.n == 0;
}

static bool wanted(const struct nats_reader *n, const char *subject)
{
	const char *key = n->choosing ? n->keys : NULL;

	while (key) {
		size_t length = strcspn(key, ",");

		if (matches((struct str){ key, length }, str_c(subject)))
			return true;
		key = key[length] ? key + length + 1 : NULL;
	}
	return !n->choosing;
}

static const char *filter(const struct nats_reader *n)
{
	return n->choosing || !*n->keys ? ">" : n->keys;
}

static int fail(natsStatus st, const char *what, const char *name, struct err *err)
{
	const char *why = nats_GetLastError(NULL);

	return err_set(err,
		       st == NATS_TIMEOUT || st == NATS_CONNECTION_CLOSED ? ERR_RETRY : ERR_CONFIG,
		       "%s %s: %s%s%s", what, name, natsStatus_GetText(st), why && *why ? ": " : "",
		       why ? why : "");
}

static int find_stream(struct nats_reader *n, struct err *err)
{
	jsStreamInfo *info = NULL;
	jsErrCode code = 0;
	natsStatus st = natsConnection_JetStream(&n->js, n->nc, NULL);

	if (!st)
		st = js_GetStreamInfo(&info, n->js, n->stream, NULL, &code);
	jsStreamInfo_Destroy(info);
	if (st == NATS_NOT_FOUND || code == JSStreamNotFoundErr)
		return err_set(err, ERR_CONFIG, "there is no stream %s", n->stream);
	if (st == NATS_NO_RESPONDERS || code == JSNotEnabledErr || code == JSNotEnabledForAccountErr)
		return err_set(err, ERR_CONFIG,
			       "JetStream is not enabled on this server or for this user; without "
			       "stream= what is published is shown");
	return st ? fail(st, "finding the stream", n->stream, err) : 0;
}

/* One that is there keeps its own subjects. */
static int check_durable(const struct nats_reader *n, const jsConsumerConfig *c, struct err *err)
{
	if (c->DeliverSubject)
		return err_set(err, ERR_CONFIG,
			       "consumer %s of stream %s is a push consumer: name another one",
			       n->durable, n->stream);
	if (c->AckPolicy == js_AckAll)
		return err_set(err, ERR_CONFIG,
			       "consumer %s of stream %s acknowledges all before, too: name "
			       "another one",
			       n->durable, n->stream);
	if (*n->keys && strcmp(c->FilterSubject ? c->FilterSubject : ">", n->keys) != 0)
		return err_set(err, ERR_CONFIG,
			       "consumer %s of stream %s has the subjects %s: leave --keys (or "
			       "the URL's path) out or name another one",
			       n->durable, n->stream, c->FilterSubject ? c->FilterSubject : ">");
	return 0;
}

static int make_durable(struct reader *r, struct err *err)
{
	struct nats_reader *n = r->state;
	jsConsumerConfig c;
	natsStatus st;

	jsConsumerConfig_Init(&c);
	c.Durable = n->durable;
	c.AckPolicy = js_AckExplicit;
	c.DeliverPolicy = reader_from_beginning(r) ? js_DeliverAll : js_DeliverNew;
	c.FilterSubject = *n->keys ? n->keys : NULL;
	st = js_AddConsumer(NULL, n->js, n->stream, &c, NULL, NULL);
	return st ? fail(st, "making the consumer", n->durable, err) : 0;
}

static int find_durable(struct reader *r, struct err *err)
{
	struct nats_reader *n = r->state;
	jsConsumerInfo *info = NULL;
	int failed;
	natsStatus st;

	if (n->choosing)
		return err_set(err, ERR_CONFIG, "a durable consumer has one filter: name one key");
	st = js_GetConsumerInfo(&info, n->js, n->stream, n->durable, NULL, NULL);
	if (st == NATS_NOT_FOUND)
		return make_durable(r, err);
	failed = st ? fail(st, "finding the consumer", n->durable, err)
		    : check_durable(n, info->Config, err);
	jsConsumerInfo_Destroy(info);
	return failed;
}

/* The consumer has been found or made by us, so the library does not delete it. */
static natsStatus subscribe_durable(struct nats_reader *n)
{
	jsSubOptions o;

	jsSubOptions_Init(&o);
	o.Stream = n->stream;
	o.Consumer = n->durable;
	return js_PullSubscribe(&n->sub, n->js, *n->keys ? n->keys : NULL, n->durable, NULL, &o,
				NULL);
}

static natsStatus subscribe_ordered(struct reader *r)
{
	struct nats_reader *n = r->state;
	jsErrCode code = 0;
	jsSubOptions o;
	natsStatus st;

	jsSubOptions_Init(&o);
	o.Stream = n->stream;
	o.Ordered = true;
	o.Config.Description = "pgherald consume";
	o.Config.DeliverPolicy = reader_from_beginning(r) ? js_DeliverAll : js_DeliverNew;
	st = js_SubscribeSync(&n->sub, n->js, filter(n), NULL, &o, &code);
	if (code != JSConsumerFilterNotSubsetErr)
		return st;
	n->choosing = true;
	return js_SubscribeSync(&n->sub, n->js, filter(n), NULL, &o, NULL);
}

static natsStatus subscribe(struct reader *r)
{
	struct nats_reader *n = r->state;
	natsStatus st;

	if (n->durable)
		return subscribe_durable(n);
	if (n->stream)
		return subscribe_ordered(r);
	st = natsConnection_SubscribeSync(&n->sub, n->nc, filter(n));
	return st ? st : natsConnection_FlushTimeout(n->nc, NATS_WAIT_MS);
}

static int reader_nats_open(struct reader *r, struct err *err)
{
	struct nats_reader *n = r->state;
	natsStatus st;

	n->stream = reader_text(r, "stream");
	n->durable = reader_text(r, "durable");
	n->keys = reader_addresses(r, &sink_nats, '.', '*');
	n->choosing = strchr(n->keys, ',');
	if (sink_nats.check(&r->url, err))
		return -1;
	if (!n->stream && (n->durable || reader_from_beginning(r)))
		return err_set(err, ERR_CONFIG, "%s needs stream=NAME: only a stream keeps messages",
			       n->durable ? "durable" : "from=beginning");
	if (nats_connect(&r->url, NULL, &n->nc, err) || (n->stream && find_stream(n, err)) ||
	    (n->durable && find_durable(r, err)))
		return -1;
	st = subscribe(r);
	return st ? fail(st, "reading", n->stream ? n->stream : filter(n), err) : 0;
}

static natsStatus fetch(struct nats_reader *n, int timeout_ms)
{
	natsMsgList list = { 0 };
	natsStatus st = natsSubscription_Fetch(&list, n->sub, 1, timeout_ms, NULL);

	if (!st && list.Count) {
		n->message = list.Msgs[0];
		list.Msgs[0] = NULL;
	}
	natsMsgList_Destroy(&list);
	return st;
}

static struct str header(natsMsg *m, const char *name)
{
	const char *value = NULL;

	return natsMsgHeader_Get(m, name, &value) ? STR("") : str_c(value);
}

static int reader_nats_next(struct reader *r, int timeout_ms, struct reader_message *m,
			    struct err *err)
{
	struct nats_reader *n = r->state;
	natsStatus st;

	natsMsg_Destroy(n->message);
	n->message = NULL;
	st = n->durable ? fetch(n, timeout_ms)
			: natsSubscription_NextMsg(&n->message, n->sub, timeout_ms);
	if (natsConnection_IsClosed(n->nc))
		return err_set(err, ERR_RETRY, "the connection to NATS is lost");
	if (st && st != NATS_TIMEOUT)
		return fail(st, "reading", n->stream ? n->stream : filter(n), err);
	if (!n->message || !wanted(n, natsMsg_GetSubject(n->message)))
		return 0;
	*m = (struct reader_message){
		str_c(natsMsg_GetSubject(n->message)),
		header(n->message, "Nats-Msg-Id"),
		{ natsMsg_GetData(n->message), (size_t)natsMsg_GetDataLength(n->message) },
		header(n->message, "Content-Encoding"),
	};
	return 1;
}

/* Once the server knows of it: this may be the last thing the program does. */
static int reader_nats_done(struct reader *r, struct err *err)
{
	struct nats_reader *n = r->state;
	natsStatus st = n->durable ? natsMsg_AckSync(n->message, NULL, NULL) : NATS_OK;

	return st ? fail(st, "acknowledging to", n->durable, err) : 0;
}

static void reader_nats_close(struct reader *r)
{
	struct nats_reader *n = r->state;

	natsMsg_Destroy(n->message);
	if (n->sub) /* which also deletes the consumer that the library has made */
		natsSubscription_Unsubscribe(n->sub);
	natsSubscription_Destroy(n->sub);
	jsCtx_Destroy(n->js);
	natsConnection_Destroy(n->nc);
}

static const struct sink_param params[] = {
	{ "stream", PARAM_TEXT, "NAME", NULL, 1, 255,
	  "read from this stream; without it what is published is shown" },
	{ "durable", PARAM_TEXT, "NAME", NULL, 1, 255,
	  "read as this consumer of the stream and acknowledge; made when it is missing" },
	PARAM_FROM,
	{ 0 },
};

const struct reader_driver reader_nats = {
	.name = "nats",
	.schemes = (const char *const[]){ "nats", "tls", NULL },
	.help = "nats://HOST/?stream=NAME  looks on; with durable=NAME acknowledges",
	.params = params,
	.state_size = sizeof(struct nats_reader),
	.open = reader_nats_open,
	.next = reader_nats_next,
	.done = reader_nats_done,
	.close = reader_nats_close,
};
