/*
 * Reads from an MQTT broker what is published from now on, and what it has retained: a session of
 * its own with a name of its own, which nobody else's is disturbed by and which goes when it ends.
 */
#include "sink/mqtt_conn.h"
#include "sink/reader.h"

#include "base/clock.h"
#include "base/mem.h"

#include <mqtt_protocol.h>
#include <stdlib.h>

#define ANSWER_MS 10000

struct received {
	struct received *next;
	struct strbuf topic, body;
	char *id, *encoding; /* malloced, or NULL */
};

struct mqtt_reader {
	struct mqtt_conn conn;
	struct received *first, **end; /* first has been shown when `shown` */
	bool shown;
	int asked; /* subscriptions that are not answered yet */
};

extern const struct sink_driver sink_mqtt;

/* The value of the user property of that name; the caller frees it. */
static char *user_property(const mosquitto_property *p, const char *wanted)
{
	bool skip = false;
	char *name, *value;

	while ((p = mosquitto_property_read_string_pair(p, MQTT_PROP_USER_PROPERTY, &name, &value,
							skip))) {
		bool found = strcmp(name, wanted) == 0;

		free(name);
		if (found)
			return value;
		free(value);
		skip = true;
	}
	return NULL;
}

static void on_message(struct mosquitto *client, void *conn, const struct mosquitto_message *m,
		       const mosquitto_property *properties)
{
	struct mqtt_reader *q = ((struct mqtt_conn *)conn)->owner;
	struct received *one = mem_alloc(sizeof(*one));

	strbuf_str(&one->topic, str_c(m->topic));
	strbuf_add(&one->body, m->payload, (size_t)m->payloadlen);
	one->id = user_property(properties, "id");
	one->encoding = user_property(properties, "content-encoding");
	*q->end = one;
	q->end = &one->next;
}

static void on_subscribe(struct mosquitto *client, void *conn, int mid, int n, const int *granted,
			 const mosquitto_property *properties)
{
	struct mqtt_reader *q = ((struct mqtt_conn *)conn)->owner;

	q->asked--;
	if (n > 0 && granted[0] >= 0x80)
		mqtt_conn_over(&q->conn, ERR_CONFIG, "the broker does not allow this topic: ",
			       mosquitto_reason_string(granted[0]));
}

static int subscribe(struct mqtt_reader *q, const char *keys, struct err *err)
{
	while (keys) {
		size_t n = strcspn(keys, ",");
		char *topic = mem_alloc(n + 1);
		int rc;

		memcpy(topic, keys, n);
		rc = mosquitto_subscribe(q->conn.client, NULL, n ? topic : "#", 1);
		free(topic);
		if (rc == MOSQ_ERR_INVAL || rc == MOSQ_ERR_MALFORMED_UTF8)
			return err_set(err, ERR_CONFIG, "\"%.*s\" is no filter of topics", (int)n,
				       keys);
		if (mqtt_conn_verdict(&q->conn, rc, err))
			return -1;
		q->asked++;
		keys = keys[n] ? keys + n + 1 : NULL;
	}
	return 0;
}

static int reader_mqtt_open(struct reader *r, struct err *err)
{
	struct mqtt_reader *q = r->state;
	int64_t end = clock_ms() + ANSWER_MS;

	q->end = &q->first;
	if (mqtt_conn_check(&r->url, err) || mqtt_conn_make(&q->conn, &r->url, NULL, q, err))
		return -1;
	mosquitto_message_v5_callback_set(q->conn.client, on_message);
	mosquitto_subscribe_v5_callback_set(q->conn.client, on_subscribe);
	if (mqtt_conn_open(&q->conn, &r->url, err) ||
	    subscribe(q, reader_addresses(r, &sink_mqtt, '/', '+'), err))
		return -1;
	while (q->asked) {
		if (clock_ms() > end)
			return err_set(err, ERR_RETRY, "the broker does not answer");
		if (mqtt_conn_work(&q->conn, -1, 100, err))
			return -1;
	}
	return 0;
}

static void drop_first(struct mqtt_reader *q)
{
	struct received *one = q->first;

	q->first = one->next;
	if (!q->first)
		q->end = &q->first;
	strbuf_release(&one->topic);
	strbuf_release(&one->body);
	free(one->id);
	free(one->encoding);
	free(one);
}

static int reader_mqtt_next(struct reader *r, int timeout_ms, struct reader_message *m,
			    struct err *err)
{
	struct mqtt_reader *q = r->state;

	if (q->shown)
		drop_first(q);
	q->shown = false;
	if (!q->first && mqtt_conn_work(&q->conn, -1, timeout_ms, err) && !q->first)
		return -1;
	if (!q->first)
		return 0;
	q->shown = true;
	*m = (struct reader_message){ strbuf_view(&q->first->topic), str_c(q->first->id),
				      strbuf_view(&q->first->body), str_c(q->first->encoding) };
	return 1;
}

static void reader_mqtt_close(struct reader *r)
{
	struct mqtt_reader *q = r->state;

	mqtt_conn_close(&q->conn);
	while (q->first)
		drop_first(q);
}

static const struct sink_param params[] = { { 0 } };

const struct reader_driver reader_mqtt = {
	.name = "mqtt",
	.schemes = (const char *const[]){ "mqtt", "mqtts", NULL },
	.help = "mqtt://HOST/TOPIC  looks on at what is published",
	.params = params,
	.state_size = sizeof(struct mqtt_reader),
	.open = reader_mqtt_open,
	.next = reader_mqtt_next,
	.close = reader_mqtt_close,
};
