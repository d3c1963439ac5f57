/*
 * mqtt://HOST:1883/TOPIC-TEMPLATE publishes over MQTT 5 or 3.1.1, never retained. Taken when the
 * broker has answered PUBACK (qos=1) or PUBCOMP (qos=2); with qos=0 when it is written. After a
 * crash or a lost connection what was not answered comes again, in order and with the same user
 * property id (version 5): each connection is a session of its own, so the broker resumes nothing.
 *
 * The library's network work is done here, in the sink's thread: it reads and writes only when
 * told to. It would queue without end, but the window bounds it.
 */
#include "base/clock.h"
#include "sink/sink.h"

#include <errno.h>
#include <inttypes.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>

#define OPEN_MS 10000
#define KEEPALIVE_S 30
#define MIDS 65536

struct mqtt {
	struct mosquitto *client;
	bool v5;
	int qos;
	bool answered;         /* CONNACK has come */
	uint64_t outstanding;  /* published and not answered */
	int64_t heard_ms;      /* when something was answered, or was first waited for */
	struct err err;        /* why the connection is over, once it is */
	char last[300];        /* the last words of the library */
	uint64_t seq_of[MIDS]; /* by message id; 0: none */
};

static const struct sink_param params[] = {
	{ "qos", PARAM_INT, "0|1|2", "1", 0, 2, "quality of service; 0 loses what the broker loses" },
	{ "version", PARAM_CHOICE, "5|3.1.1", "5", 0, 0, "of the protocol" },
	{ "client_id", PARAM_TEXT, "NAME", NULL, 1, 200,
	  "how the broker knows this output; default: made of server, database and slot" },
	{ "timeout", PARAM_INT, "SECONDS", "10", 1, 600,
	  "connect anew when nothing was answered for so long" },
	PARAMS_TLS,
	{ 0 },
};

static int mqtt_check(const struct url *url, struct err *err)
{
	if (url->nhosts == 1)
		return 0;
	return err_set(err, ERR_CONFIG, "it names %s, as mqtt://HOST:1883 does",
		       url->nhosts ? "more than one broker, not one" : "no broker");
}

/* ---- what the broker answers ---- */

/* The connection is over; the first reason stands. */
static void over(struct mqtt *q, enum err_kind kind, const char *what, const char *why)
{
	if (!q->err.kind)
		err_set(&q->err, kind, "%s%s", what, why);
}

static const char *connack_text(const struct mqtt *q, int code)
{
	return q->v5 && code >= 0x80 ? mosquitto_reason_string(code) : mosquitto_connack_string(code);
}

/* Codes of MQTT 5, and below 0x80 those of 3.1.1, which old brokers answer to both. */
static void refused_connection(struct mqtt *q, int code)
{
	const char *text = connack_text(q, code);

	switch (code) {
	case CONNACK_REFUSED_BAD_USERNAME_PASSWORD:
	case CONNACK_REFUSED_NOT_AUTHORIZED:
	case MQTT_RC_BAD_USERNAME_OR_PASSWORD:
	case MQTT_RC_NOT_AUTHORIZED:
	case MQTT_RC_BAD_AUTHENTICATION_METHOD:
		over(q, ERR_CONFIG, text, ": look at user and password in the URL");
		break;
	case CONNACK_REFUSED_PROTOCOL_VERSION:
	case MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION:
		over(q, ERR_CONFIG, text, ": set version=3.1.1 for brokers that do not speak 5");
		break;
	case CONNACK_REFUSED_IDENTIFIER_REJECTED:
	case MQTT_RC_CLIENTID_NOT_VALID:
		over(q, ERR_CONFIG, text, ": set another client_id");
		break;
	case MQTT_RC_BANNED:
	case MQTT_RC_USE_ANOTHER_SERVER:
	case MQTT_RC_SERVER_MOVED:
		over(q, ERR_CONFIG, "the broker refuses this client: ", text);
		break;
	default:
		over(q, ERR_RETRY, "the broker refuses the connection: ", text);
	}
}

static void on_connect(struct mosquitto *client, void *sink, int code, int flags,
		       const mosquitto_property *properties)
{
	struct mqtt *q = ((struct sink *)sink)->state;

	q->answered = true;
	if (code)
		refused_connection(q, code);
}

static void on_disconnect(struct mosquitto *client, void *sink, int code,
			  const mosquitto_property *properties)
{
	struct mqtt *q = ((struct sink *)sink)->state;

	over(q, ERR_RETRY, "the broker ended the connection: ",
	     code >= 0x80 ? mosquitto_reason_string(code)
	     : q->last[0] ? q->last
			  : mosquitto_strerror(code));
}

static void on_log(struct mosquitto *client, void *sink, int level, const char *text)
{
	struct mqtt *q = ((struct sink *)sink)->state;

	if (level & (MOSQ_LOG_ERR | MOSQ_LOG_WARNING))
		snprintf(q->last, sizeof(q->last), "%s", text);
}

static void on_publish(struct mosquitto *client, void *sink, int mid, int code,
		       const mosquitto_property *properties)
{
	struct sink *s = sink;
	struct mqtt *q = s->state;
	uint64_t seq = q->seq_of[mid & (MIDS - 1)];

	if (!seq)
		return;
	q->seq_of[mid & (MIDS - 1)] = 0;
	q->outstanding--;
	q->heard_ms = clock_ms();
	if (code < 0x80)
		sink_ack(s, seq);
	else if (code == MQTT_RC_QUOTA_EXCEEDED)
		over(q, ERR_RETRY, "the broker takes nothing more: ", mosquitto_reason_string(code));
	else
		sink_refuse(s, seq, mosquitto_reason_string(code));
}

/* ---- opening ---- */

static void init_library(void)
{
	mosquitto_lib_init();
}

static void print_client_id(const struct sink *s, char *out, size_t size)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *p = s->origin; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3;
	snprintf(out, size, "pgherald-%012" PRIx64, h >> 16); /* 21 bytes: 3.1 allows 23 */
}

static bool is_tls(const struct sink *s)
{
	return strcmp(s->url.scheme, "mqtts") == 0;
}

static int set_tls(struct sink *s, struct err *err)
{
	struct mqtt *q = s->state;
	const char *ca = sink_text(s, "ca");
	int rc = 0;

	if (!is_tls(s))
		return 0;
	if (!ca)
		rc = mosquitto_int_option(q->client, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
	if (!rc)
		rc = mosquitto_tls_set(q->client, ca, ca ? NULL : "/etc/ssl/certs",
				       sink_text(s, "cert"), sink_text(s, "cert_key"), NULL);
	if (!rc)
		return 0;
	return err_set(err, ERR_CONFIG, "cannot use ca, cert and cert_key: %s; are the files there?",
		       mosquitto_strerror(rc));
}

static int make(struct sink *s, struct err *err)
{
	struct mqtt *q = s->state;
	const char *name = sink_text(s, "client_id");
	char id[32];

	print_client_id(s, id, sizeof(id));
	q->client = mosquitto_new(name ? name : id, true, s);
	if (!q->client)
		return err_set(err, ERR_CONFIG, "client_id cannot be used");
	q->v5 = strcmp(sink_text(s, "version"), "5") == 0;
	q->qos = (int)sink_int(s, "qos");
	mosquitto_int_option(q->client, MOSQ_OPT_PROTOCOL_VERSION,
			     q->v5 ? MQTT_PROTOCOL_V5 : MQTT_PROTOCOL_V311);
	mosquitto_int_option(q->client, MOSQ_OPT_SEND_MAXIMUM, 65535);
	mosquitto_int_option(q->client, MOSQ_OPT_TCP_NODELAY, 1);
	mosquitto_connect_v5_callback_set(q->client, on_connect);
	mosquitto_disconnect_v5_callback_set(q->client, on_disconnect);
	mosquitto_publish_v5_callback_set(q->client, on_publish);
	mosquitto_log_callback_set(q->client, on_log);
	if (s->url.user && mosquitto_username_pw_set(q->client, s->url.user, s->url.password))
		return err_set(err, ERR_CONFIG, "user and password cannot be used");
	return set_tls(s, err);
}

/* Whether the connection has failed; rc is what the library's last function returned. */
static int verdict(struct sink *s, int rc, struct err *err)
{
	struct mqtt *q = s->state;

	if (strstr(q->last, "verify failed") || strstr(q->last, "host name verification failed"))
		err_set(&q->err, ERR_CONFIG,
			"%s; ca= names the authority that the broker's certificate comes from",
			q->last);
	if (rc == MOSQ_ERR_ERRNO)
		over(q, ERR_RETRY, "the connection failed: ", strerror(errno));
	else if (rc)
		over(q, ERR_RETRY, mosquitto_strerror(rc), "");
	if (q->outstanding && clock_ms() - q->heard_ms >= sink_int(s, "timeout") * 1000)
		over(q, ERR_RETRY, "the broker answers nothing", "");
	if (!q->err.kind)
		return 0;
	*err = q->err;
	return -1;
}

/* One round of reading and writing; waits for it up to timeout_ms, which may end early. */
static int work(struct sink *s, int timeout_ms, struct err *err)
{
	struct mqtt *q = s->state;
	bool wants = mosquitto_want_write(q->client) || !q->answered;
	struct pollfd pfd[] = { { mosquitto_socket(q->client),
				  (short)(POLLIN | (wants ? POLLOUT : 0)), 0 },
				{ s->wake, POLLIN, 0 } };
	int rc = 0;

	if (timeout_ms < 0 || timeout_ms > 1000)
		timeout_ms = 1000; /* keepalive, and silence that has lasted too long */
	poll(pfd, q->answered ? 2 : 1, timeout_ms);
	if (pfd[0].revents & (POLLIN | POLLHUP | POLLERR))
		rc = mosquitto_loop_read(q->client, 1000);
	if (!rc && pfd[0].revents & POLLOUT)
		rc = mosquitto_loop_write(q->client, 1000);
	if (!rc)
		rc = mosquitto_loop_misc(q->client);
	return verdict(s, rc, err);
}

static int mqtt_open(struct sink *s, struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct mqtt *q = s->state;
	const struct url_host *h = &s->url.hosts[0];
	int64_t end = clock_ms() + OPEN_MS;
	int rc;

	pthread_once(&once, init_library);
	if (make(s, err))
		return -1;
	rc = mosquitto_connect_async(q->client, h->host,
				     h->port     ? h->port
				     : is_tls(s) ? 8883
						 : 1883,
				     KEEPALIVE_S);
	if (rc && verdict(s, rc, err))
		return -1;
	while (!q->answered) {
		if (clock_ms() >= end)
			return err_set(err, ERR_RETRY, "the broker does not answer");
		if (work(s, 100, err))
			return -1;
	}
	return 0;
}

static void mqtt_close(struct sink *s)
{
	struct mqtt *q = s->state;

	if (!q->client)
		return;
	mosquitto_disconnect(q->client);
	mosquitto_destroy(q->client);
}

/* ---- sending ---- */

static mosquitto_property *id_property(const struct message *m)
{
	mosquitto_property *properties = NULL;
	char id[POSITION_LEN + 1] = "";

	position_print(m->position, id);
	mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "id", id);
	return properties;
}

/* The library wants a terminated topic; in one piece on the stack as long as it is short. */
static int publish(struct mqtt *q, struct str topic, struct str body, const mosquitto_property *p,
		   int *mid)
{
	char small[1024];
	struct strbuf big = { 0 };
	const char *name = small;
	int rc;

	if (topic.n < sizeof(small)) {
		memcpy(small, topic.p, topic.n);
		small[topic.n] = 0;
	} else {
		strbuf_str(&big, topic);
		name = strbuf_cstr(&big);
	}
	rc = mosquitto_publish_v5(q->client, mid, name, (int)body.n, body.p, q->qos, false, p);
	strbuf_release(&big);
	return rc;
}

static int send_one(struct sink *s, const struct batch *b, uint32_t i, struct err *err)
{
	struct mqtt *q = s->state;
	struct str topic = batch_address(b, i), body = batch_body(b, i);
	mosquitto_property *properties = q->v5 ? id_property(&b->messages[i]) : NULL;
	int mid = 0, rc = MOSQ_ERR_PAYLOAD_SIZE;

	if (body.n <= MQTT_MAX_PAYLOAD)
		rc = publish(q, topic, body, properties, &mid);
	mosquitto_property_free_all(&properties);
	switch (rc) {
	case MOSQ_ERR_SUCCESS:
		q->seq_of[mid & (MIDS - 1)] = b->first + i;
		if (q->outstanding++ == 0)
			q->heard_ms = clock_ms();
		return 0;
	case MOSQ_ERR_INVAL:
	case MOSQ_ERR_MALFORMED_UTF8:
		sink_refuse(s, b->first + i, "its topic is not one that MQTT allows");
		return 0;
	case MOSQ_ERR_OVERSIZE_PACKET:
	case MOSQ_ERR_PAYLOAD_SIZE:
		sink_refuse(s, b->first + i, "it is larger than the broker allows");
		return 0;
	case MOSQ_ERR_QOS_NOT_SUPPORTED:
		return err_set(err, ERR_CONFIG, "the broker does not allow qos=%d", q->qos);
	default:
		return verdict(s, rc, err);
	}
}

static int mqtt_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	for (uint32_t i = from; i < to; i++)
		if (send_one(s, b, i, err))
			return -1;
	return 0;
}

static int mqtt_poll(struct sink *s, int timeout_ms, struct err *err)
{
	return work(s, timeout_ms, err);
}

static int mqtt_flush(struct sink *s, struct err *err)
{
	struct mqtt *q = s->state;

	while (q->outstanding)
		if (work(s, 100, err))
			return -1;
	return 0;
}

/* Not the separator, the wildcards, what makes a topic the broker's own, or control characters. */
static bool plain(unsigned char c)
{
	return c >= 0x20 && c != 0x7f && !strchr("/+#$%", c);
}

const struct sink_driver sink_mqtt = {
	.name = "mqtt",
	.schemes = (const char *const[]){ "mqtt", "mqtts", NULL },
	.help = "mqtt://HOST/TOPIC  publishes over MQTT; taken when the broker has answered",
	.params = params,
	.address = "{db}/{schema}/{table}/{action}",
	.address_in_path = true,
	.address_plain = plain,
	.address_escape = '%',
	.max_in_flight = 1000,
	.state_size = sizeof(struct mqtt),
	.check = mqtt_check,
	.open = mqtt_open,
	.send = mqtt_send,
	.poll = mqtt_poll,
	.flush = mqtt_flush,
	.close = mqtt_close,
};
