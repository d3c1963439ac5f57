/*
 * kafka://HOST:PORT,.../TOPIC-TEMPLATE produces to Kafka. Taken when all in-sync replicas have it
 * (acks=all, idempotent producer). After a crash, and when a broker is away for longer than
 * `timeout`, messages may come again, with the same id header and in order.
 *
 * With transactional=ID nothing comes again for consumers that read committed: messages and, in the
 * topic `positions` under the key sink->origin, the position of the last one are one Kafka
 * transaction, and the position is read back when the output is opened. Taken is then what is
 * committed. The transactional id is ID-HASH, of sink->origin, so outputs with the same ID do not
 * fence each other, but a process fences the one whose place it takes. Who is fenced opens again: a
 * coordinator also fences a transaction that took too long, and the position read back says what of
 * it is there.
 *
 * librdkafka retries on its own, which cannot repeat anything as long as the producer lives. It
 * must not skip anything either: enable.gapless.guarantee makes a failed batch fatal to the
 * producer, which is then made anew.
 */
#include "sink/kafka.h"

#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define BATCH_BYTES 1000000 /* librdkafka's own default of batch.size */
#define TXN_MESSAGES 10000  /* a transaction is committed when it has so many */

struct kafka_topic {
	struct kafka_topic *next;
	rd_kafka_topic_t *handle;
	size_t n;
	char name[];
};

/* ---- what the library reports ---- */

enum err_kind kafka_kind(rd_kafka_resp_err_t code)
{
	static const rd_kafka_resp_err_t for_the_user[] = {
		RD_KAFKA_RESP_ERR__AUTHENTICATION,
		RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
		RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM,
		RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
		RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
		RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
		RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
		RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
		RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT,
	};

	for (size_t i = 0; i < sizeof(for_the_user) / sizeof(for_the_user[0]); i++)
		if (code == for_the_user[i])
			return ERR_CONFIG;
	return ERR_RETRY;
}

const char *kafka_mend(rd_kafka_resp_err_t code)
{
	if (code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED || code == RD_KAFKA_RESP_ERR__FENCED)
		return "; another process has taken this one's place, or a transaction took too "
		       "long";
	if (code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
	    code == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED)
		return rd_kafka_version() < 0x020601ff
			       ? "; look at user and password in the URL and at sasl= (to Kafka 4, "
				 "SCRAM needs librdkafka 2.6.1)"
			       : "; look at user and password in the URL and at sasl=";
	return "";
}

/* The connection is over; the first reason stands. */
static void over(struct kafka *k, enum err_kind kind, const char *what, const char *why)
{
	if (!k->err.kind)
		err_set(&k->err, kind, "%s%s", what, why);
}

static void take_error(struct sink *s, rd_kafka_event_t *event)
{
	struct kafka *k = s->state;
	rd_kafka_resp_err_t code = rd_kafka_event_error(event);
	const char *text = rd_kafka_event_error_string(event);
	char fatal[300];

	if (code == RD_KAFKA_RESP_ERR__FATAL) {
		code = rd_kafka_fatal_error(k->rk, fatal, sizeof(fatal));
		text = fatal;
		if (!k->fatal_ms)
			k->fatal_ms = clock_ms();
	}
	if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
		k->down = true;
		return;
	}
	snprintf(k->last, sizeof(k->last), "%s", text);
	if (kafka_kind(code) == ERR_CONFIG)
		over(k, ERR_CONFIG, text, kafka_mend(code));
	else if (strstr(text, "verify failed"))
		over(k, ERR_CONFIG, text,
		     "; ca= names the authority that the brokers' "
		     "certificates come from");
}

static void unknown_topic(struct kafka *k, const rd_kafka_message_t *m)
{
	if (!k->err.kind)
		err_set(&k->err, ERR_CONFIG,
			"there is no topic %s and the broker does not make it: make it with "
			"kafka-topics --create --topic %s, or allow auto.create.topics.enable",
			rd_kafka_topic_name(m->rkt), rd_kafka_topic_name(m->rkt));
}

/* The broker refuses all messages of a batch for one of them. One that was alone is the one; other
 * batches are sent again in smaller ones. */
static void refused_batch(struct sink *s, const rd_kafka_message_t *m, uint64_t seq)
{
	struct kafka *k = s->state;

	if (m->len + m->key_len > k->batch_bytes || k->batch_bytes == 1) {
		sink_refuse(s, seq, rd_kafka_err2str(m->err));
		k->refused = true;
		if (m->err != RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
			s->learned = 0;
	} else if (!k->err.kind) {
		s->learned = m->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && k->batch_bytes > 4
				     ? k->batch_bytes / 4
				     : 1;
	}
	over(k, ERR_RETRY, "a batch was refused: ", rd_kafka_err2str(m->err));
}

static void take_failure(struct sink *s, const rd_kafka_message_t *m, uint64_t seq)
{
	struct kafka *k = s->state;

	/* not rd_kafka_message_errstr: of messages that were sent it is the payload */
	switch ((int)m->err) {
	case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
	case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
	case RD_KAFKA_RESP_ERR_INVALID_RECORD:
	case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		if (seq && (!k->err.kind || k->refused))
			refused_batch(s, m, seq);
		break;
	case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
	case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		unknown_topic(k, m);
		break;
	case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
	case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
	case RD_KAFKA_RESP_ERR__FATAL:
		break; /* for another one's failure, which is reported too */
	default:
		over(k, kafka_kind(m->err), rd_kafka_err2str(m->err), kafka_mend(m->err));
	}
}

static void take_reports(struct sink *s, rd_kafka_event_t *event)
{
	struct kafka *k = s->state;
	const rd_kafka_message_t *m;

	while ((m = rd_kafka_event_message_next(event))) {
		uint64_t seq = (uint64_t)(uintptr_t)m->_private;

		k->outstanding--;
		if (m->err)
			take_failure(s, m, seq);
		else if (!k->positions)
			sink_ack(s, seq);
	}
	k->heard_ms = clock_ms();
	k->down = false;
}

/* All that has been reported so far. Returns whether anything was. */
static bool listen_now(struct sink *s)
{
	struct kafka *k = s->state;
	rd_kafka_event_t *event;
	bool any = false;

	while ((event = rd_kafka_queue_poll(k->queue, 0))) {
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR)
			take_reports(s, event);
		else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
			take_error(s, event);
		rd_kafka_event_destroy(event);
		any = true;
	}
	return any;
}

/* Messages of a topic that may not be used wait without a word: the reason is with the topic. */
static void ask_topics(struct kafka *k)
{
	const struct rd_kafka_metadata *md;

	if (rd_kafka_metadata(k->rk, 0, NULL, &md, 2000))
		return;
	for (int i = 0; i < md->topic_cnt; i++)
		if (kafka_kind(md->topics[i].err) == ERR_CONFIG && !k->err.kind)
			err_set(&k->err, ERR_CONFIG, "topic %s: %s", md->topics[i].topic,
				rd_kafka_err2str(md->topics[i].err));
	rd_kafka_metadata_destroy(md);
}

#define FATAL_WAIT_MS 1000

/* Whether the connection has failed. What made the producer fatal is reported beside it, and may
 * be a refusal: that is waited for. */
static int verdict(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	int64_t now = clock_ms();

	if (k->fatal_ms && now - k->fatal_ms >= FATAL_WAIT_MS)
		over(k, ERR_RETRY, "the producer cannot go on: ", k->last);
	if (k->outstanding && now - k->heard_ms >= k->stall_ms && !k->err.kind) {
		ask_topics(k);
		over(k, ERR_RETRY,
		     "the brokers acknowledge nothing: ", k->last[0] ? k->last : "no word from them");
	}
	if (!k->err.kind)
		return 0;
	*err = k->err;
	return -1;
}

/* Waits for reports, but not beyond the time when silence becomes an error. */
static int listen_for(struct sink *s, int timeout_ms, struct err *err)
{
	struct kafka *k = s->state;
	int64_t left = k->fatal_ms ? 10 : k->heard_ms + k->stall_ms - clock_ms();

	if (!listen_now(s) && timeout_ms) {
		if ((k->outstanding || k->fatal_ms) && (timeout_ms < 0 || timeout_ms > left))
			timeout_ms = left > 0 ? (int)left : 0;
		sink_wait(s, timeout_ms);
		listen_now(s);
	}
	return verdict(s, err);
}

int kafka_look(struct sink *s, struct err *err)
{
	listen_now(s);
	return verdict(s, err);
}

void kafka_count(struct kafka *k)
{
	if (k->outstanding++ == 0)
		k->heard_ms = clock_ms();
}

int kafka_settle(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;

	while (k->outstanding) {
		rd_kafka_event_t *event = rd_kafka_queue_poll(k->queue, 100);

		if (event && rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR)
			take_reports(s, event);
		else if (event && rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
			take_error(s, event);
		rd_kafka_event_destroy(event);
		if (verdict(s, err))
			return -1;
	}
	return 0;
}

/* ---- opening ---- */

/* Some broker has answered. */
static int reach(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	int64_t end = clock_ms() + KAFKA_OPEN_MS;
	const struct rd_kafka_metadata *md;
	rd_kafka_resp_err_t code;

	do {
		code = rd_kafka_metadata(k->rk, 0, NULL, &md, 250);
		if (!code) {
			rd_kafka_metadata_destroy(md);
			k->down = false;
			return 0;
		}
		listen_now(s);
		if (verdict(s, err))
			return -1;
	} while (!k->down && clock_ms() < end);
	return err_set(err, ERR_RETRY, "no broker answers: %s",
		       k->last[0] ? k->last : rd_kafka_err2str(code));
}

static int kafka_open(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	static const uint64_t one = 1;

	k->batch_bytes = s->learned ? s->learned : BATCH_BYTES;
	k->stall_ms = sink_int(s, "timeout") * 1000;
	k->positions = sink_text(s, "transactional") ? sink_text(s, "positions") : NULL;
	k->rk = kafka_make_producer(s, err);
	if (!k->rk)
		return -1;
	k->queue = rd_kafka_queue_get_main(k->rk);
	rd_kafka_queue_io_event_enable(k->queue, s->wake, &one, sizeof(one));
	if (reach(s, err))
		return -1;
	return k->positions ? kafka_txn_open(s, err) : 0;
}

static void kafka_close(struct sink *s)
{
	struct kafka *k = s->state;

	if (!k->rk)
		return;
	rd_kafka_purge(k->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	for (size_t i = 0; i < KAFKA_BUCKETS; i++)
		while (k->topics[i]) {
			struct kafka_topic *t = k->topics[i];

			k->topics[i] = t->next;
			rd_kafka_topic_destroy(t->handle);
			free(t);
		}
	rd_kafka_queue_io_event_enable(k->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(k->queue);
	rd_kafka_destroy(k->rk);
}

/* ---- sending ---- */

static bool plain(unsigned char c)
{
	return isalnum(c) || c == '_';
}

static const char *topic_fault(struct str name)
{
	if (name.n == 0 || name.n > KAFKA_TOPIC_MAX)
		return "its topic's name is empty or longer than 249 bytes";
	for (size_t i = 0; i < name.n; i++)
		if (!plain((unsigned char)name.p[i]) && !strchr(".-", name.p[i]))
			return "its topic's name has bytes other than letters, digits, "
			       "'.', '_', "
			       "'-'";
	return NULL;
}

static rd_kafka_topic_t *find_topic(struct kafka *k, struct str name)
{
	uint32_t h = 2166136261u;
	struct kafka_topic **bucket, *t;

	for (size_t i = 0; i < name.n; i++)
		h = (h ^ (unsigned char)name.p[i]) * 16777619u;
	bucket = &k->topics[h % KAFKA_BUCKETS];
	for (t = *bucket; t; t = t->next)
		if (str_eq((struct str){ t->name, t->n }, name))
			return t->handle;
	t = mem_alloc(sizeof(*t) + name.n + 1);
	memcpy(t->name, name.p, name.n);
	t->n = name.n;
	t->handle = rd_kafka_topic_new(k->rk, t->name, NULL);
	t->next = *bucket;
	*bucket = t;
	return t->handle;
}

/* The position, and for the second and third message of one event ".1" and ".2". */
static size_t print_message_id(const struct message *m, char id[POSITION_LEN + 2])
{
	position_print(m->position, id);
	if (!m->part)
		return POSITION_LEN;
	id[POSITION_LEN] = '.';
	id[POSITION_LEN + 1] = (char)('0' + m->part);
	return POSITION_LEN + 2;
}

/* The id and what the format has; the library frees them once it has taken the message. */
static rd_kafka_headers_t *make_headers(const struct batch *b, uint32_t i)
{
	struct str rest = batch_headers(b, i);
	rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
	const char *name, *value;
	char id[POSITION_LEN + 2];
	size_t n = print_message_id(&b->messages[i], id);

	rd_kafka_header_add(headers, "id", -1, id, (ssize_t)n);
	while (batch_next_header(&rest, &name, &value))
		rd_kafka_header_add(headers, name, -1, value, -1);
	return headers;
}

static rd_kafka_resp_err_t produce(struct kafka *k, const struct batch *b, uint32_t i)
{
	struct str body = batch_body(b, i), key = batch_key(b, i);
	rd_kafka_headers_t *headers = make_headers(b, i);
	rd_kafka_resp_err_t failed;

	/* Neither copied nor freed by the library: the batch stays until it is taken. */
	failed = rd_kafka_producev(
		k->rk, RD_KAFKA_V_RKT(find_topic(k, batch_address(b, i))), RD_KAFKA_V_MSGFLAGS(0),
		RD_KAFKA_V_KEY(key.n ? key.p : NULL, key.n),
		RD_KAFKA_V_VALUE(b->messages[i].null ? NULL : (void *)(uintptr_t)body.p, body.n),
		RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE((void *)(uintptr_t)(b->first + i)),
		RD_KAFKA_V_END);
	if (failed)
		rd_kafka_headers_destroy(headers);
	return failed;
}

/* In a transaction nothing behind a refused message may be committed before that is dealt with. */
static int refuse(struct sink *s, uint64_t seq, const char *why, struct err *err)
{
	struct kafka *k = s->state;

	if (k->positions && kafka_txn_commit(s, err))
		return -1;
	sink_refuse(s, seq, why);
	return k->positions ? err_set(err, ERR_RETRY, "a message is refused: %s", why) : 0;
}

/* Sends one message, as soon as the library has room for it. */
static int send_one(struct sink *s, const struct batch *b, uint32_t i, struct err *err)
{
	struct kafka *k = s->state;
	const char *fault = topic_fault(batch_address(b, i));
	rd_kafka_resp_err_t code;

	if (fault)
		return refuse(s, b->first + i, fault, err);
	while ((code = produce(k, b, i)) == RD_KAFKA_RESP_ERR__QUEUE_FULL && k->outstanding)
		if (listen_for(s, 10, err))
			return -1;
	if (code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE || code == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return refuse(s, b->first + i,
			      "it is larger than p.message.max.bytes (of librdkafka) allows", err);
	if (code && code != RD_KAFKA_RESP_ERR__FATAL)
		return err_set(err, kafka_kind(code), "%s", rd_kafka_err2str(code));
	if (code && !k->fatal_ms)
		k->fatal_ms = clock_ms();
	if (!code)
		kafka_count(k);
	return 0;
}

static int kafka_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		      struct err *err)
{
	struct kafka *k = s->state;

	if (k->positions && kafka_txn_begin(s, err))
		return -1;
	for (uint32_t i = from; i < to; i++) {
		if (send_one(s, b, i, err))
			return -1;
		k->whole = b->messages[i].position;
		k->txn_last = b->first + i;
		k->txn_n++;
	}
	return 0;
}

static int kafka_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct kafka *k = s->state;

	if (k->in_txn && (timeout_ms || k->txn_n >= TXN_MESSAGES))
		return kafka_txn_commit(s, err);
	return listen_for(s, timeout_ms, err);
}

static int kafka_flush(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;

	return k->positions ? kafka_txn_commit(s, err) : kafka_settle(s, err);
}

static const struct header_style headers = { "ce_", "content-type", false };

const struct sink_driver sink_kafka = {
	.name = "kafka",
	.headers = &headers,
	.schemes = (const char *const[]){ "kafka", NULL },
	.help = "kafka://HOST:9092,.../TOPIC  produces to Kafka; taken when all replicas "
		"have it",
	.params = kafka_params,
	.address = "{db}.{schema}.{table}",
	.address_in_path = true,
	.address_plain = plain,
	.address_escape = '-',
	.keys = true,
	.nulls = true,
	.max_in_flight = 20000,
	.state_size = sizeof(struct kafka),
	.check = kafka_check,
	.open = kafka_open,
	.send = kafka_send,
	.poll = kafka_poll,
	.flush = kafka_flush,
	.mark = kafka_mark,
	.close = kafka_close,
};
