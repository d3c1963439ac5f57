/*
 * nats://HOST/SUBJECT publishes to a NATS JetStream stream. Taken when JetStream has acknowledged,
 * which it does once the message is stored. With core=true there is no stream: taken when the
 * server has read it.
 *
 * Each message has a Nats-Msg-Id, "WRITER-POSITION": WRITER is 16 hex digits that stand for
 * sink->origin, so that several outputs may share a stream. On open the last message of this writer
 * is looked for in the stream: what it holds is not sent again, however long ago that was.
 *
 * Messages are sent without waiting for those before. Were one of them not stored (stream full,
 * leader lost) and the next one were, that would be a hole for ever. So each names its predecessor
 * (Nats-Expected-Last-Msg-Id), and JetStream takes none behind one it did not take. A stream with
 * other writers cannot be used so; see nats_note.c.
 *
 * The connection is served by the sink's own thread: the client library's "event loop" is poll().
 */
#include "sink/nats.h"

#include "base/clock.h"
#include "encode/encode.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

/* What may wait in memory to be written before it is. */
#define WRITE_BYTES 65536

/* Not so long that with its reply a subject breaks the server's limit of a line (4096). */
#define SUBJECT_MOST 2048

/* Finds the stream, over a connection of its own: the library's calls for that need its threads. */
static int look_at_stream(struct sink *s, struct err *err)
{
	natsConnection *nc = NULL;
	int failed = nats_connect(&s->url, NULL, &nc, err);

	if (!failed)
		failed = nats_stream_open(s, nc, err);
	natsConnection_Destroy(nc);
	return failed;
}

int nats_fail(const struct sink *s, natsStatus st, const char *what, struct err *err)
{
	const char *why = nats_GetLastError(NULL);

	return err_set(err, ERR_RETRY, "%s: %s%s%s", what, natsStatus_GetText(st),
		       why && *why ? ": " : "", why ? why : "");
}

static int subscribe(struct sink *s, struct err *err)
{
	struct nats *n = s->state;
	struct strbuf subject = { 0 };
	natsStatus st = natsInbox_Create(&n->inbox);

	if (!st) {
		n->inbox_n = strlen(n->inbox);
		strbuf_printf(&subject, "%s.*", n->inbox);
		st = natsConnection_SubscribeSync(&n->acks, n->nc, strbuf_cstr(&subject));
		strbuf_release(&subject);
	}
	if (!st)
		st = natsSubscription_SetPendingLimits(n->acks, -1, -1);
	return st ? nats_fail(s, st, "subscribing to acknowledgements", err) : 0;
}

static int nats_open(struct sink *s, struct err *err)
{
	struct nats *n = s->state;
	bool core = sink_bool(s, "core");

	n->max_size = SIZE_MAX;
	nats_writer(s);
	if (core)
		s->notice = "core=true: messages are published without acknowledgements; what no "
			    "subscriber receives at once is lost";
	if (!core && look_at_stream(s, err))
		return -1;
	if (nats_connect(&s->url, core ? NULL : &n->fd, &n->nc, err))
		return -1;
	s->learned |= NATS_LEARNED_OPEN;
	return core ? 0 : subscribe(s, err);
}

static void destroy_spent(struct nats *n)
{
	while (n->nspent)
		natsMsg_Destroy(n->spent[--n->nspent]);
}

static void spend(struct nats *n, natsMsg *m)
{
	if (n->nspent == NATS_SPENT)
		destroy_spent(n);
	n->spent[n->nspent++] = m;
}

/* Why the connection is over. */
static int check_alive(struct sink *s, struct err *err)
{
	struct nats *n = s->state;
	const char *why = NULL;

	if (!natsConnection_IsClosed(n->nc))
		return 0;
	natsConnection_GetLastError(n->nc, &why);
	return err_set(err, ERR_RETRY, "the connection to NATS is lost%s%s",
		       why && *why ? ": " : "", why ? why : "");
}

/* A number or, without its quotes, a string in the flat part of JetStream's answers. */
static struct str json_member(struct str json, const char *name)
{
	struct strbuf key = { 0 };
	struct str value = { 0 };
	const char *at;

	strbuf_printf(&key, "\"%s\":", name);
	at = memmem(json.p, json.n, key.p, key.n);
	if (at) {
		value = str_from(json, (size_t)(at - json.p) + key.n);
		if (value.n && value.p[0] == '"')
			value = str_from(value, 1);
		for (size_t i = 0; i < value.n; i++)
			if (value.p[i] == '"' || value.p[i] == ',' || value.p[i] == '}')
				value.n = i;
	}
	strbuf_release(&key);
	return value;
}

#define WRONG_LAST_MSG_ID 10070

static int not_stored(struct sink *s, struct str answer, struct err *err)
{
	struct nats *n = s->state;
	struct str code = json_member(answer, "err_code"), why = json_member(answer, "description");

	if (strtol(code.n ? code.p : "0", NULL, 10) == WRONG_LAST_MSG_ID) {
		s->learned |= NATS_LEARNED_SHARED;
		return err_set(err, ERR_RETRY,
			       "stream %s has another writer too; from now on this is heeded",
			       n->stream);
	}
	return err_set(err, ERR_RETRY, "stream %s did not store a message: %.*s", n->stream,
		       STR_ARG(why));
}

static int take_answer(struct sink *s, natsMsg *m, struct err *err)
{
	struct nats *n = s->state;
	struct str answer = { natsMsg_GetData(m), (size_t)natsMsg_GetDataLength(m) };
	uint64_t seq = strtoull(natsMsg_GetSubject(m) + n->inbox_n + 1, NULL, 16);

	n->unanswered--;
	n->heard_ms = clock_ms();
	if (natsMsg_IsNoResponders(m))
		return err_set(err, ERR_RETRY,
			       "stream %s takes nothing now: it has no leader or is gone", n->stream);
	if (memmem(answer.p, answer.n, "\"error\":", 8))
		return not_stored(s, answer, err);
	if (n->noted)
		nats_stored(n, json_member(answer, "seq"));
	sink_ack(s, seq);
	return 0;
}

static int take_answers(struct sink *s, struct err *err)
{
	struct nats *n = s->state;
	int waiting = 0, failed = 0;

	natsSubscription_GetPending(n->acks, &waiting, NULL);
	for (; waiting > 0 && !failed; waiting--) {
		natsMsg *m = NULL;

		if (natsSubscription_NextMsg(&m, n->acks, 1))
			break;
		failed = take_answer(s, m, err);
		spend(n, m);
	}
	destroy_spent(n);
	return failed;
}

/* Writes and reads what is there, waiting for it up to timeout_ms. */
static int serve(struct sink *s, int timeout_ms, bool heed_wake, struct err *err)
{
	struct nats *n = s->state;
	struct pollfd pfd[2] = { { n->fd, POLLIN, 0 }, { s->wake, POLLIN, 0 } };

	if (natsConnection_Buffered(n->nc) > 0)
		natsConnection_ProcessWriteEvent(n->nc);
	if (natsConnection_Buffered(n->nc) > 0)
		pfd[0].events |= POLLOUT;
	poll(pfd, heed_wake ? 2 : 1, timeout_ms);
	if (pfd[0].revents & ~POLLOUT)
		natsConnection_ProcessReadEvent(n->nc);
	if (take_answers(s, err))
		return -1;
	return check_alive(s, err);
}

/* How long the next answer may still take. */
static int patience_ms(struct sink *s, struct err *err)
{
	struct nats *n = s->state;
	int64_t left = n->heard_ms + sink_int(s, "ack_wait") * 1000 - clock_ms();
	const char *why = NULL;

	if (left > 0)
		return (int)left;
	if (natsConnection_GetLastError(n->nc, &why) == NATS_NOT_PERMITTED)
		return err_set(err, ERR_CONFIG, "NATS does not permit this user to publish: %s",
			       why ? why : "");
	return err_set(err, ERR_RETRY, "JetStream acknowledged nothing for %s s",
		       sink_text(s, "ack_wait"));
}

static int serve_until_answered(struct sink *s, struct err *err)
{
	struct nats *n = s->state;

	while (n->unanswered) {
		int left = patience_ms(s, err);

		if (left < 0 || serve(s, left, false, err))
			return -1;
	}
	return 0;
}

static natsStatus make_message(struct sink *s, const struct batch *b, uint32_t i, natsMsg **m)
{
	struct nats *n = s->state;
	struct str body = batch_body(b, i), headers = batch_headers(b, i);
	char reply[128], note[NATS_NOTE_SIZE];
	const char *name, *value;
	natsStatus st;

	n->subject.n = 0;
	strbuf_str(&n->subject, batch_address(b, i));
	snprintf(reply, sizeof(reply), "%s.%" PRIx64, n->inbox ? n->inbox : "", b->first + i);
	st = natsMsg_Create(m, strbuf_cstr(&n->subject), n->inbox ? reply : NULL, body.p,
			    (int)body.n);
	if (!st)
		st = natsMsgHeader_Set(*m, "Nats-Msg-Id", n->id);
	if (!st && n->chained && n->last_id[0])
		st = natsMsgHeader_Set(*m, "Nats-Expected-Last-Msg-Id", n->last_id);
	if (!st && n->noted) {
		nats_note(s, b, i, note);
		st = natsMsgHeader_Set(*m, NATS_NOTE, note);
	}
	while (!st && batch_next_header(&headers, &name, &value))
		st = natsMsgHeader_Set(*m, name, value);
	return st;
}

static int publish(struct sink *s, const struct batch *b, uint32_t i, struct err *err)
{
	struct nats *n = s->state;
	natsMsg *m = NULL;
	natsStatus st;

	nats_message_id(s, b, i, n->id);
	st = make_message(s, b, i, &m);
	if (!st)
		st = natsConnection_PublishMsg(n->nc, m);
	spend(n, m);
	if (st == NATS_MAX_PAYLOAD) {
		sink_refuse(s, b->first + i, "it is larger than the server's max_payload");
		return 0;
	}
	if (st)
		return nats_fail(s, st, "publishing", err);
	memcpy(n->last_id, n->id, sizeof(n->id));
	if (n->unanswered++ == 0)
		n->heard_ms = clock_ms();
	return 0;
}

/* Refuses what JetStream would refuse for good: behind it, the chain of ids would be broken. */
static bool is_refused(struct sink *s, const struct batch *b, uint32_t i)
{
	struct nats *n = s->state;
	struct str address = batch_address(b, i);
	size_t headers = NATS_HEADERS + (n->chained || n->noted ? NATS_HEADERS_MORE : 0) +
			 2 * (size_t)b->messages[i].headers_n;

	if (address.n > SUBJECT_MOST)
		sink_refuse(s, b->first + i, "its subject is longer than 2048 bytes");
	else if (!nats_subject_valid(address))
		sink_refuse(s, b->first + i, "its subject has an empty part, a blank or a wildcard");
	else if (n->stream && !nats_stream_takes(n, address))
		sink_refuse(s, b->first + i, "no subject of the stream fits its subject");
	else if (batch_body(b, i).n + headers > n->max_size)
		sink_refuse(s, b->first + i, "it is larger than the stream's max_msg_size");
	else
		return false;
	return true;
}

static int send_acknowledged(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
			     struct err *err)
{
	struct nats *n = s->state;

	for (uint32_t i = from; i < to; i++) {
		if (nats_note_has(n, b->messages[i].position)) {
			sink_ack(s, b->first + i);
			continue;
		}
		if (is_refused(s, b, i))
			continue;
		if (publish(s, b, i, err))
			return -1;
		if (natsConnection_Buffered(n->nc) >= WRITE_BYTES && serve(s, 0, false, err))
			return -1;
		if (n->one_by_one && serve_until_answered(s, err))
			return -1;
	}
	return serve(s, 0, false, err);
}

static int send_core(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	struct nats *n = s->state;
	natsStatus st;

	for (uint32_t i = from; i < to; i++) {
		if (is_refused(s, b, i))
			continue;
		if (publish(s, b, i, err))
			return -1;
		sink_ack(s, b->first + i);
	}
	destroy_spent(n);
	st = natsConnection_FlushTimeout(n->nc, NATS_WAIT_MS);
	return st ? nats_fail(s, st, "publishing", err) : 0;
}

static int nats_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	return sink_bool(s, "core") ? send_core(s, b, from, to, err)
				    : send_acknowledged(s, b, from, to, err);
}

static int nats_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct nats *n = s->state;

	if (sink_bool(s, "core")) {
		sink_wait(s, timeout_ms < 0 || timeout_ms > 1000 ? 1000 : timeout_ms);
		return check_alive(s, err);
	}
	if (timeout_ms < 0 || timeout_ms > 1000)
		timeout_ms = 1000; /* the library's timer may have something to write */
	if (n->unanswered) {
		int left = patience_ms(s, err);

		if (left < 0)
			return -1;
		if (timeout_ms > left)
			timeout_ms = left;
	}
	return serve(s, timeout_ms, true, err);
}

static void nats_close(struct sink *s)
{
	struct nats *n = s->state;

	destroy_spent(n);
	natsSubscription_Destroy(n->acks);
	natsConnection_Destroy(n->nc);
	natsInbox_Destroy(n->inbox);
	strbuf_release(&n->subject);
	nats_stream_close(n);
	nats_note_close(n);
}

static int nats_check(const struct url *url, struct err *err)
{
	if (url->nhosts == 0)
		return err_set(err, ERR_CONFIG, "it names no host, as nats://HOST/SUBJECT does");
	if (!url_param(url, "nkey") != !url_param(url, "nkey_seed"))
		return err_set(err, ERR_CONFIG, "nkey and nkey_seed go together");
	return 0;
}

/* Parts of subjects are separated by dots; * and > are wildcards; what begins with a $ is the
 * server's. */
static bool is_plain(unsigned char c)
{
	return c > ' ' && c != 127 && !strchr(".*>$%", c);
}

static const struct sink_param params[] = {
	{ "stream", PARAM_TEXT, "NAME", NULL, 1, 255,
	  "the stream; made when it is missing. Default: the one that takes these subjects" },
	{ "subjects", PARAM_TEXT, "SUBJECT", NULL, 1, 255,
	  "of a stream that is made. Default: what the template can make" },
	{ "storage", PARAM_CHOICE, "file|memory", "file", 0, 0, "of a stream that is made" },
	{ "replicas", PARAM_INT, "N", "1", 1, 5, "of a stream that is made" },
	{ "max_age", PARAM_INT, "SECONDS", "0", 0, INT32_MAX,
	  "of a stream that is made: how long it keeps messages; 0: for ever" },
	{ "core", PARAM_BOOL, "BOOL", "false", 0, 0,
	  "publish without a stream and without acknowledgements" },
	{ "ack_wait", PARAM_INT, "SECONDS", "10", 1, 3600,
	  "connect again when no acknowledgement comes for so long" },
	{ "token", PARAM_TEXT, "TOKEN", NULL, 1, 4096, "authenticate with a token" },
	{ "creds", PARAM_FILE, "FILE", NULL, 1, 4096, "authenticate with a .creds file" },
	{ "nkey", PARAM_TEXT, "KEY", NULL, 1, 255, "authenticate with this public nkey, U..." },
	{ "nkey_seed", PARAM_FILE, "FILE", NULL, 1, 4096, "the file with its seed" },
	PARAMS_TLS,
	{ 0 },
};

static const struct header_style headers = { "ce-", "ce-datacontenttype", true };

const struct sink_driver sink_nats = {
	.name = "nats",
	.headers = &headers,
	.schemes = (const char *const[]){ "nats", "tls", NULL },
	.help = "nats://HOST[:4222]/SUBJECT  publishes to JetStream; taken when it acknowledged",
	.params = params,
	.address = "{db}.{schema}.{table}.{action}",
	.address_in_path = true,
	.address_plain = is_plain,
	.address_escape = '%',
	.max_in_flight = 4096,
	.state_size = sizeof(struct nats),
	.check = nats_check,
	.open = nats_open,
	.send = nats_send,
	.poll = nats_poll,
	.close = nats_close,
};
