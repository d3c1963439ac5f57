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
#include "encode/encode.h"
#include "sink/cork.h"
#include "sink/mqtt_conn.h"
#include "sink/sink.h"

#include <inttypes.h>
#include <mqtt_protocol.h>
#include <stdio.h>

#define MIDS 65536

struct mqtt {
	struct mqtt_conn conn;
	int qos;
	uint64_t outstanding;  /* published and not answered */
	int64_t heard_ms;      /* when something was answered, or was first waited for */
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

/* ---- what the broker answers ---- */

static void on_publish(struct mosquitto *client, void *conn, int mid, int code,
		       const mosquitto_property *properties)
{
	struct sink *s = ((struct mqtt_conn *)conn)->owner;
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
		mqtt_conn_over(&q->conn, ERR_RETRY,
			       "the broker takes nothing more: ", mosquitto_reason_string(code));
	else
		sink_refuse(s, seq, mosquitto_reason_string(code));
}

/* ---- opening ---- */

static void print_client_id(const struct sink *s, char *out, size_t size)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *p = s->origin; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3;
	snprintf(out, size, "pgherald-%012" PRIx64, h >> 16); /* 21 bytes: 3.1 allows 23 */
}

static int work(struct sink *s, int timeout_ms, struct err *err)
{
	struct mqtt *q = s->state;

	if (mqtt_conn_work(&q->conn, s->wake, timeout_ms, err))
		return -1;
	if (q->outstanding && clock_ms() - q->heard_ms >= sink_int(s, "timeout") * 1000)
		return err_set(err, ERR_RETRY, "the broker answers nothing");
	return 0;
}

static int mqtt_open(struct sink *s, struct err *err)
{
	struct mqtt *q = s->state;
	const char *name = sink_text(s, "client_id");
	char id[32];

	print_client_id(s, id, sizeof(id));
	q->qos = (int)sink_int(s, "qos");
	if (mqtt_conn_make(&q->conn, &s->url, name ? name : id, s, err))
		return -1;
	mosquitto_publish_v5_callback_set(q->conn.client, on_publish);
	return mqtt_conn_open(&q->conn, &s->url, err);
}

static void mqtt_close(struct sink *s)
{
	struct mqtt *q = s->state;

	mqtt_conn_close(&q->conn);
}

/* ---- sending ---- */

static mosquitto_property *make_properties(const struct batch *b, uint32_t i)
{
	const struct message *m = &b->messages[i];
	struct str rest = batch_headers(b, i);
	mosquitto_property *properties = NULL;
	const char *name, *value;
	char id[POSITION_LEN + 1] = "";

	position_print(m->position, id);
	if (rest.n) /* with an id of its own */
		mosquitto_property_add_string(&properties, MQTT_PROP_CONTENT_TYPE,
					      "application/json");
	else
		mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "id", id);
	while (batch_next_header(&rest, &name, &value))
		mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, name, value);
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
	rc = mosquitto_publish_v5(q->conn.client, mid, name, (int)body.n, body.p, q->qos, false, p);
	strbuf_release(&big);
	return rc;
}

static int send_one(struct sink *s, const struct batch *b, uint32_t i, struct err *err)
{
	struct mqtt *q = s->state;
	struct str topic = batch_address(b, i), body = batch_body(b, i);
	mosquitto_property *properties = q->conn.v5 ? make_properties(b, i) : NULL;
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
		return mqtt_conn_verdict(&q->conn, rc, err);
	}
}

static int mqtt_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	struct mqtt *q = s->state;
	int failed = 0;

	if (!q->conn.v5 && b->messages[from].headers_n)
		return err_set(err, ERR_CONFIG,
			       "MQTT 3.1.1 has no headers for cloudevents_mode=binary: use "
			       "version=5");
	cork(mosquitto_socket(q->conn.client), true);
	for (uint32_t i = from; i < to && !failed; i++)
		failed = send_one(s, b, i, err);
	cork(mosquitto_socket(q->conn.client), false);
	return failed;
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

static const struct header_style headers = { "", NULL, false };

const struct sink_driver sink_mqtt = {
	.name = "mqtt",
	.headers = &headers,
	.schemes = (const char *const[]){ "mqtt", "mqtts", NULL },
	.help = "mqtt://HOST/TOPIC  publishes over MQTT; taken when the broker has answered",
	.params = params,
	.address = "{db}/{schema}/{table}/{action}",
	.address_in_path = true,
	.address_plain = plain,
	.address_escape = '%',
	.max_in_flight = 1000,
	.state_size = sizeof(struct mqtt),
	.check = mqtt_conn_check,
	.open = mqtt_open,
	.send = mqtt_send,
	.poll = mqtt_poll,
	.flush = mqtt_flush,
	.close = mqtt_close,
};
