/*
 * kafka://HOST:PORT,.../TOPIC-TEMPLATE produces to Kafka. Taken when all in-sync replicas have it
 * (acks=all, idempotent producer). After a crash, and when a broker is away for longer than
 * `timeout`, messages may come again, with the same id header and in order.
 *
 * With transactional=ID nothing comes again for consumers that read committed: messages and, in the
 * topic `positions` under the key sink->origin, the position of the last one are one Kafka
 * transaction, and the position is read back when the output is opened. Taken is then what is
 * committed. The transactional id is ID-HASH, of sink->origin, so outputs with the same ID do not
 * fence each other, but a process fences the one whose place it takes.
 *
 * librdkafka retries on its own, which cannot repeat anything as long as the producer lives. It
 * must not skip anything either: enable.gapless.guarantee makes a failed batch fatal to the
 * producer, which is then made anew.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "sink/sink.h"

#include <ctype.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>

#define OPEN_MS 10000
#define TOPIC_MAX 249
#define BUCKETS 256
#define BATCH_BYTES 1000000
#define TXN_MESSAGES 10000 /* a transaction is committed when it has so many */

struct topic {
	struct topic *next;
	rd_kafka_topic_t *handle;
	size_t n;
	char name[];
};

struct kafka {
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;
	struct topic *topics[BUCKETS];
	size_t batch_bytes;
	int64_t stall_ms;
	uint64_t outstanding; /* given to the library, not reported yet */
	int64_t heard_ms;     /* when something was reported, or was first waited for */
	int64_t fatal_ms;     /* when the producer became unusable; 0: it is well */
	bool refused;         /* something was, and sink.c has not seen to it yet */
	bool down;            /* no broker is connected */
	struct err err;       /* why the connection is over, once it is */
	char last[300];       /* the last words of the library */

	const char *positions; /* topic; NULL: not transactional */
	bool in_txn;
	uint32_t txn_n;
	uint64_t txn_last;     /* sequence number */
	struct position whole; /* of the last message in a transaction */
};

static const struct sink_param params[] = {
	{ "transactional", PARAM_TEXT, "ID", NULL, 1, 200,
	  "messages and position are one transaction, so nothing is repeated" },
	{ "positions", PARAM_TEXT, "TOPIC", "pgherald-positions", 1, TOPIC_MAX,
	  "compacted topic for the positions; made when it is missing" },
	{ "timeout", PARAM_INT, "SECONDS", "15", 1, 600,
	  "connect anew when nothing was acknowledged for so long" },
	{ "tls", PARAM_BOOL, "true|false", "false", 0, 0, "speak TLS; also with ca or cert" },
	{ "sasl", PARAM_CHOICE, "PLAIN|SCRAM-SHA-256|SCRAM-SHA-512", "PLAIN", 0, 0,
	  "how user and password of the URL are shown to the broker" },
	PARAMS_TLS,
	{ "p.*", PARAM_TEXT, "VALUE", NULL, 0, 65536,
	  "any property of librdkafka, as in p.compression.codec=zstd" },
	{ 0 },
};

extern const struct sink_driver sink_kafka;

/* ---- settings ---- */

static const char *param(const struct url *url, const char *name)
{
	return driver_text(&sink_kafka, url, name);
}

static int set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err)
{
	char why[300];

	if (!value || rd_kafka_conf_set(conf, name, value, why, sizeof(why)) == RD_KAFKA_CONF_OK)
		return 0;
	if (url_is_secret(str_c(name)) || strstr(name, "pem"))
		snprintf(why, sizeof(why), "its value is wrong");
	return err_set(err, ERR_CONFIG, "librdkafka's property %s: %s", name, why);
}

static int set_bootstrap(rd_kafka_conf_t *conf, const struct url *url, struct err *err)
{
	struct strbuf list = { 0 };
	int failed;

	for (size_t i = 0; i < url->nhosts; i++) {
		const struct url_host *h = &url->hosts[i];
		bool v6 = strchr(h->host, ':');

		strbuf_printf(&list, "%s%s%s%s:%d", i ? "," : "", v6 ? "[" : "", h->host,
			      v6 ? "]" : "", h->port ? h->port : 9092);
	}
	failed = set(conf, "bootstrap.servers", strbuf_cstr(&list), err);
	strbuf_release(&list);
	return failed;
}

static int set_security(rd_kafka_conf_t *conf, const struct url *url, struct err *err)
{
	bool tls = param(url, "ca") || param(url, "cert") || strcmp(param(url, "tls"), "true") == 0;

	if (set(conf, "security.protocol",
		url->user ? tls ? "SASL_SSL" : "SASL_PLAINTEXT"
		: tls     ? "SSL"
			  : "PLAINTEXT",
		err) ||
	    set(conf, "ssl.endpoint.identification.algorithm", "https", err) ||
	    set(conf, "ssl.ca.location", param(url, "ca"), err) ||
	    set(conf, "ssl.certificate.location", param(url, "cert"), err) ||
	    set(conf, "ssl.key.location", param(url, "cert_key"), err))
		return -1;
	if (!url->user)
		return 0;
	return set(conf, "sasl.mechanisms", param(url, "sasl"), err) ||
			       set(conf, "sasl.username", url->user, err) ||
			       set(conf, "sasl.password", url->password, err)
		       ? -1
		       : 0;
}

/* Not for the user to say: they hold the guarantees, or have a parameter of their own. */
static bool is_ours(const char *name)
{
	static const char *const names[] = { "bootstrap.servers", "metadata.broker.list",
					     "transactional.id",  "delivery.report.only.error",
					     "group.id",          "enable.gapless.guarantee" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

static int set_given(rd_kafka_conf_t *conf, const struct url *url, struct err *err)
{
	for (size_t i = 0; i < url->nparams; i++) {
		const char *name = url->params[i].name;

		if (strncmp(name, "p.", 2) != 0)
			continue;
		if (is_ours(name + 2))
			return err_set(err, ERR_CONFIG, "%s cannot be set", name);
		if (set(conf, name + 2, url->params[i].value, err))
			return -1;
	}
	return 0;
}

/* What producer and reader have in common; the user's own words last. */
static int configure(rd_kafka_conf_t *conf, const struct url *url, struct err *err)
{
	static const char *const basics[][2] = {
		{ "client.id", "pgherald" },
		{ "socket.timeout.ms", "10000" },
		{ "socket.connection.setup.timeout.ms", "10000" },
		{ "socket.keepalive.enable", "true" },
		{ "reconnect.backoff.max.ms", "1000" },
		{ "enable.idempotence", "true" },
		{ "acks", "all" },
		{ "linger.ms", "1" },
		{ "queue.buffering.max.messages", "100000" },
		{ "queue.buffering.max.kbytes", "131072" },
		{ "topic.metadata.propagation.max.ms", "10000" },
	};

	for (size_t i = 0; i < sizeof(basics) / sizeof(basics[0]); i++)
		if (set(conf, basics[i][0], basics[i][1], err))
			return -1;
	rd_kafka_conf_set_log_cb(conf, NULL);
	return set_bootstrap(conf, url, err) || set_security(conf, url, err) ||
			       set_given(conf, url, err)
		       ? -1
		       : 0;
}

static int kafka_check(const struct url *url, struct err *err)
{
	rd_kafka_conf_t *conf;
	int failed;

	if (url->nhosts == 0)
		return err_set(err, ERR_CONFIG, "it names no broker, as kafka://HOST:9092 does");
	conf = rd_kafka_conf_new();
	failed = configure(conf, url, err);
	rd_kafka_conf_destroy(conf);
	return failed;
}

/* ---- what the library reports ---- */

static enum err_kind kind_of(rd_kafka_resp_err_t code)
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
		RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
		RD_KAFKA_RESP_ERR__FENCED,
	};

	for (size_t i = 0; i < sizeof(for_the_user) / sizeof(for_the_user[0]); i++)
		if (code == for_the_user[i])
			return ERR_CONFIG;
	return ERR_RETRY;
}

static const char *mend(rd_kafka_resp_err_t code)
{
	if (code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED || code == RD_KAFKA_RESP_ERR__FENCED)
		return "; another process has taken this one's place";
	if (code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
	    code == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED)
		return "; look at user and password in the URL and at sasl=";
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
	if (kind_of(code) == ERR_CONFIG)
		over(k, ERR_CONFIG, text, mend(code));
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
	const char *text = rd_kafka_message_errstr(m);

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
		over(k, kind_of(m->err), text ? text : rd_kafka_err2str(m->err), mend(m->err));
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

#define FATAL_WAIT_MS 1000

/* Whether the connection has failed. What made the producer fatal is reported beside it, and may
 * be a refusal: that is waited for. */
static int verdict(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	int64_t now = clock_ms();

	if (k->fatal_ms && now - k->fatal_ms >= FATAL_WAIT_MS)
		over(k, ERR_RETRY, "the producer cannot go on: ", k->last);
	if (k->outstanding && now - k->heard_ms >= k->stall_ms)
		over(k, ERR_RETRY,
		     "the brokers acknowledge nothing: ", k->last[0] ? k->last : "no word from them");
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

/* Waits until all that was sent is reported. */
static int settle(struct sink *s, struct err *err)
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

/* Messages without a key stay in order too: all of a topic go to one partition. */
static int32_t partition(const rd_kafka_topic_t *topic, const void *key, size_t n, int32_t count,
			 void *topic_opaque, void *opaque)
{
	const char *name = rd_kafka_topic_name(topic);

	return n ? rd_kafka_msg_partitioner_murmur2(topic, key, n, count, NULL, NULL)
		 : rd_kafka_msg_partitioner_murmur2(topic, name, strlen(name), count, NULL, NULL);
}

static void print_id(const struct sink *s, char *out, size_t size)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *p = s->origin; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3;
	snprintf(out, size, "%s-%016" PRIx64, sink_text(s, "transactional"), h);
}

static int configure_producer(struct sink *s, rd_kafka_conf_t *conf, struct err *err)
{
	struct kafka *k = s->state;
	char id[256], bytes[32];
	rd_kafka_topic_conf_t *topic;

	if (configure(conf, &s->url, err))
		return -1;
	snprintf(bytes, sizeof(bytes), "%zu", k->batch_bytes);
	if (s->learned && set(conf, "batch.size", bytes, err))
		return -1;
	if (!url_param(&s->url, "p.partitioner")) {
		topic = rd_kafka_conf_get_default_topic_conf(conf);
		rd_kafka_topic_conf_set_partitioner_cb(topic, partition);
	}
	if (!k->positions) /* it is for us to say what takes too long */
		return set(conf, "message.timeout.ms", "0", err) ||
				       (!url_param(&s->url, "p.enable.idempotence") &&
					set(conf, "enable.gapless.guarantee", "true", err))
			       ? -1
			       : 0;
	print_id(s, id, sizeof(id));
	return set(conf, "transactional.id", id, err);
}

static rd_kafka_t *make(struct sink *s, rd_kafka_type_t type, rd_kafka_conf_t *conf, struct err *err)
{
	char why[300];
	rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof(why));

	if (rk)
		return rk;
	rd_kafka_conf_destroy(conf);
	err_set(err, ERR_CONFIG, "%s", why);
	return NULL;
}

/* Some broker has answered. */
static int reach(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	int64_t end = clock_ms() + OPEN_MS;
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

static int begin_exactly_once(struct sink *s, struct err *err);

static int kafka_open(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	static const uint64_t one = 1;

	k->batch_bytes = s->learned ? s->learned : BATCH_BYTES;
	k->stall_ms = sink_int(s, "timeout") * 1000;
	k->positions = sink_text(s, "transactional") ? sink_text(s, "positions") : NULL;
	if (configure_producer(s, conf, err)) {
		rd_kafka_conf_destroy(conf);
		return -1;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
	k->rk = make(s, RD_KAFKA_PRODUCER, conf, err);
	if (!k->rk)
		return -1;
	k->queue = rd_kafka_queue_get_main(k->rk);
	rd_kafka_queue_io_event_enable(k->queue, s->wake, &one, sizeof(one));
	if (reach(s, err))
		return -1;
	return k->positions ? begin_exactly_once(s, err) : 0;
}

static void kafka_close(struct sink *s)
{
	struct kafka *k = s->state;

	if (!k->rk)
		return;
	rd_kafka_purge(k->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	for (size_t i = 0; i < BUCKETS; i++)
		while (k->topics[i]) {
			struct topic *t = k->topics[i];

			k->topics[i] = t->next;
			rd_kafka_topic_destroy(t->handle);
			free(t);
		}
	rd_kafka_queue_io_event_enable(k->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(k->queue);
	rd_kafka_destroy(k->rk);
}

/* ---- transactions ---- */

static int txn_failed(struct sink *s, rd_kafka_error_t *e, const char *what, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_resp_err_t code = rd_kafka_error_code(e);

	listen_now(s);
	if (!verdict(s, err))
		err_set(err, kind_of(code), "cannot %s: %s%s", what, rd_kafka_error_string(e),
			mend(code));
	k->in_txn = false;
	rd_kafka_error_destroy(e);
	return -1;
}

static int txn_begin(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_error_t *e;

	if (k->in_txn)
		return 0;
	e = rd_kafka_begin_transaction(k->rk);
	if (e)
		return txn_failed(s, e, "begin a transaction", err);
	k->in_txn = true;
	k->txn_n = 0;
	return 0;
}

#define RECORD_LEN (POSITION_LEN + 1 + 16 + 1 + 20 + 1 + 10)

/* POSITION LSN SYSTEM TIMELINE, the last three being the mark. */
static int put_record(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	char record[RECORD_LEN + 1];
	rd_kafka_resp_err_t code;

	position_print(k->whole, record);
	snprintf(record + POSITION_LEN, sizeof(record) - POSITION_LEN,
		 " %016" PRIX64 " %020" PRIu64 " %010" PRIu32, s->mark.lsn, s->mark.system_id,
		 s->mark.timeline);
	code = rd_kafka_producev(k->rk, RD_KAFKA_V_TOPIC(k->positions), RD_KAFKA_V_PARTITION(0),
				 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
				 RD_KAFKA_V_KEY(s->origin, strlen(s->origin)),
				 RD_KAFKA_V_VALUE(record, RECORD_LEN), RD_KAFKA_V_END);
	if (code)
		return err_set(err, ERR_RETRY, "cannot put the position: %s", rd_kafka_err2str(code));
	if (k->outstanding++ == 0)
		k->heard_ms = clock_ms();
	return 0;
}

static int txn_commit(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_error_t *e;

	if (!k->in_txn)
		return 0;
	if (put_record(s, err) || settle(s, err))
		return -1;
	e = rd_kafka_commit_transaction(k->rk, (int)k->stall_ms);
	if (e)
		return txn_failed(s, e, "commit", err);
	k->in_txn = false;
	if (k->txn_n)
		sink_took(s, k->txn_last);
	return 0;
}

static int kafka_mark(struct sink *s, const struct mark *m, struct err *err)
{
	struct kafka *k = s->state;

	if (!k->positions)
		return 0;
	s->mark = *m;
	return txn_begin(s, err) ? -1 : txn_commit(s, err);
}

/* ---- the position, read back ---- */

static bool parse_record(struct sink *s, const rd_kafka_message_t *m)
{
	char text[RECORD_LEN + 1], *at = text + POSITION_LEN;

	if (m->len != RECORD_LEN)
		return false;
	memcpy(text, m->payload, RECORD_LEN);
	text[RECORD_LEN] = 0;
	if (!position_parse((struct str){ text, POSITION_LEN }, &s->held))
		return false;
	s->mark.lsn = strtoull(at, &at, 16);
	s->mark.system_id = strtoull(at, &at, 10);
	s->mark.timeline = (uint32_t)strtoul(at, &at, 10);
	return true;
}

/* Reads to the end of the topic; *found when one of our records was there. */
static int read_tail(struct sink *s, rd_kafka_topic_t *topic, bool *found, struct err *err)
{
	struct str origin = str_c(s->origin);

	for (;;) {
		rd_kafka_message_t *m = rd_kafka_consume(topic, 0, OPEN_MS);
		rd_kafka_resp_err_t code = m ? m->err : RD_KAFKA_RESP_ERR__TIMED_OUT;

		if (!code && str_eq((struct str){ m->key, m->key_len }, origin))
			*found |= parse_record(s, m);
		if (m)
			rd_kafka_message_destroy(m);
		if (code == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			return 0;
		if (code)
			return err_set(err, kind_of(code), "cannot read the topic of positions: %s",
				       rd_kafka_err2str(code));
	}
}

/* Our last record is near the end, unless others have written much since. */
static int read_back(struct sink *s, rd_kafka_t *reader, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_topic_t *topic;
	int64_t low, high;
	bool found = false;
	int failed = 0;
	rd_kafka_resp_err_t code =
		rd_kafka_query_watermark_offsets(reader, k->positions, 0, &low, &high, OPEN_MS);

	if (code)
		return err_set(err, kind_of(code), "cannot read the topic %s of positions: %s",
			       k->positions, rd_kafka_err2str(code));
	topic = rd_kafka_topic_new(reader, k->positions, NULL);
	for (int64_t tail = 1000; !failed && !found; tail *= 100) {
		int64_t from = high - tail > low ? high - tail : low;

		if (rd_kafka_consume_start(topic, 0, from))
			failed = err_set(err, ERR_RETRY, "cannot read the topic of positions");
		else
			failed = read_tail(s, topic, &found, err);
		rd_kafka_consume_stop(topic, 0);
		if (from == low)
			break;
	}
	rd_kafka_topic_destroy(topic);
	return failed;
}

static int read_position(struct sink *s, struct err *err)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *reader;
	int failed;

	if (configure(conf, &s->url, err) || set(conf, "isolation.level", "read_committed", err) ||
	    set(conf, "enable.partition.eof", "true", err) || set(conf, "group.id", "", err)) {
		rd_kafka_conf_destroy(conf);
		return -1;
	}
	reader = make(s, RD_KAFKA_CONSUMER, conf, err);
	if (!reader)
		return -1;
	failed = read_back(s, reader, err);
	rd_kafka_destroy(reader);
	return failed;
}

/* Whether the topic exists; ERR_NONE in *err when it only does not. */
static int find_positions(struct sink *s, rd_kafka_topic_t *topic, struct err *err)
{
	struct kafka *k = s->state;
	const struct rd_kafka_metadata *md;
	rd_kafka_resp_err_t code = rd_kafka_metadata(k->rk, 0, topic, &md, OPEN_MS);

	err->kind = ERR_NONE;
	if (!code) {
		code = md->topics[0].err;
		rd_kafka_metadata_destroy(md);
	}
	if (!code)
		return 0;
	if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
	    code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
		return -1;
	return err_set(err, kind_of(code), "the topic %s of positions: %s", k->positions,
		       rd_kafka_err2str(code));
}

static rd_kafka_resp_err_t take_created(rd_kafka_event_t *event)
{
	const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(event);
	rd_kafka_resp_err_t code = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
	size_t n = 0;

	if (!code && result) {
		const rd_kafka_topic_result_t **each =
			rd_kafka_CreateTopics_result_topics(result, &n);

		code = n ? rd_kafka_topic_result_error(each[0]) : 0;
	}
	rd_kafka_event_destroy(event);
	return code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS ? 0 : code;
}

static int make_positions(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	char why[200];
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(k->positions, 1, -1, why, sizeof(why));
	rd_kafka_queue_t *queue = rd_kafka_queue_new(k->rk);
	rd_kafka_AdminOptions_t *options =
		rd_kafka_AdminOptions_new(k->rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__INVALID_ARG;

	if (topic) {
		/* Small segments, so that little of what is compacted has to be read. */
		rd_kafka_NewTopic_set_config(topic, "cleanup.policy", "compact");
		rd_kafka_NewTopic_set_config(topic, "segment.ms", "600000");
		rd_kafka_NewTopic_set_config(topic, "min.cleanable.dirty.ratio", "0.1");
		rd_kafka_AdminOptions_set_request_timeout(options, OPEN_MS, NULL, 0);
		rd_kafka_CreateTopics(k->rk, &topic, 1, options, queue);
		code = take_created(rd_kafka_queue_poll(queue, OPEN_MS));
		rd_kafka_NewTopic_destroy(topic);
	}
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	if (!code)
		return 0;
	return err_set(err, code == RD_KAFKA_RESP_ERR__TIMED_OUT ? ERR_RETRY : ERR_CONFIG,
		       "cannot make the topic %s of positions: %s; make it with one partition and "
		       "cleanup.policy=compact",
		       k->positions, rd_kafka_err2str(code));
}

static int have_positions(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_topic_t *topic = rd_kafka_topic_new(k->rk, k->positions, NULL);
	int failed;

	if (!topic)
		return err_set(err, ERR_CONFIG, "\"%s\" is no name for a topic", k->positions);
	failed = find_positions(s, topic, err);
	if (failed && err->kind == ERR_NONE)
		failed = make_positions(s, err);
	rd_kafka_topic_destroy(topic);
	return failed;
}

/* The transaction that an earlier process left open is aborted before the position is read. */
static int begin_exactly_once(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_error_t *e = rd_kafka_init_transactions(k->rk, OPEN_MS);

	if (e)
		return txn_failed(s, e, "begin as a transactional producer", err);
	s->held = (struct position){ 0 };
	if (have_positions(s, err) || read_position(s, err))
		return -1;
	k->whole = s->held;
	return 0;
}

/* ---- sending ---- */

static bool plain(unsigned char c)
{
	return isalnum(c) || c == '_';
}

static const char *topic_fault(struct str name)
{
	if (name.n == 0 || name.n > TOPIC_MAX)
		return "its topic's name is empty or longer than 249 bytes";
	for (size_t i = 0; i < name.n; i++)
		if (!plain((unsigned char)name.p[i]) && !strchr(".-", name.p[i]))
			return "its topic's name has bytes other than letters, digits, '.', '_', "
			       "'-'";
	return NULL;
}

static rd_kafka_topic_t *find_topic(struct kafka *k, struct str name)
{
	uint32_t h = 2166136261u;
	struct topic **bucket, *t;

	for (size_t i = 0; i < name.n; i++)
		h = (h ^ (unsigned char)name.p[i]) * 16777619u;
	bucket = &k->topics[h % BUCKETS];
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

static rd_kafka_resp_err_t produce(struct kafka *k, const struct batch *b, uint32_t i)
{
	struct str body = batch_body(b, i), key = batch_key(b, i);
	char id[POSITION_LEN + 2];
	size_t n = print_message_id(&b->messages[i], id);

	/* Neither copied nor freed by the library: the batch stays until it is taken. */
	return rd_kafka_producev(
		k->rk, RD_KAFKA_V_RKT(find_topic(k, batch_address(b, i))), RD_KAFKA_V_MSGFLAGS(0),
		RD_KAFKA_V_KEY(key.n ? key.p : NULL, key.n),
		RD_KAFKA_V_VALUE(b->messages[i].null ? NULL : (void *)(uintptr_t)body.p, body.n),
		RD_KAFKA_V_HEADER("id", id, (ssize_t)n),
		RD_KAFKA_V_OPAQUE((void *)(uintptr_t)(b->first + i)), RD_KAFKA_V_END);
}

/* In a transaction nothing behind a refused message may be committed before that is dealt with. */
static int refuse(struct sink *s, uint64_t seq, const char *why, struct err *err)
{
	struct kafka *k = s->state;

	if (k->positions && txn_commit(s, err))
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
		return err_set(err, kind_of(code), "%s", rd_kafka_err2str(code));
	if (code && !k->fatal_ms)
		k->fatal_ms = clock_ms();
	if (!code && k->outstanding++ == 0)
		k->heard_ms = clock_ms();
	return 0;
}

static int kafka_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		      struct err *err)
{
	struct kafka *k = s->state;

	if (k->positions && txn_begin(s, err))
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
		return txn_commit(s, err);
	return listen_for(s, timeout_ms, err);
}

static int kafka_flush(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;

	return k->positions ? txn_commit(s, err) : settle(s, err);
}

const struct sink_driver sink_kafka = {
	.name = "kafka",
	.schemes = (const char *const[]){ "kafka", NULL },
	.help = "kafka://HOST:9092,.../TOPIC  produces to Kafka; taken when all replicas have it",
	.params = params,
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
