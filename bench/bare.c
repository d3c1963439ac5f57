/*
 * Publishers that do nothing but publish: a constant body, through the same client library as the
 * outputs, with the same guarantee, which where they can come again includes an id, and the same
 * number of messages in flight. What an output reaches is compared with these.
 *
 * Usage: bare NAME HOST PORT N BYTES WINDOW
 * Prints: messages/s and the CPU seconds of this process.
 */
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

struct job {
	const char *host;
	int port;
	int n;
	const char *body;
	int bytes;
	int window;
};

static void fail(const char *what)
{
	fprintf(stderr, "bare: %s\n", what);
	exit(1);
}

static void check(int failed, const char *what)
{
	if (failed)
		fail(what);
}

static int64_t began;
static double cpu_began;

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Connecting is not counted. */
static void start_clock(void)
{
	began = clock_wall_us();
	cpu_began = cpu_seconds();
}

#ifdef HAVE_NATS
#include <nats/nats.h>

/* JetStream, asynchronous, each with an id. */
static void bare_nats(const struct job *j)
{
	natsConnection *nc;
	jsCtx *js;
	jsOptions options;
	jsPubOptions pub;
	jsStreamConfig stream;
	jsStreamInfo *info = NULL;
	char url[100], id[30];

	snprintf(url, sizeof(url), "nats://%s:%d", j->host, j->port);
	check(natsConnection_ConnectTo(&nc, url), "nats: connect");
	jsOptions_Init(&options);
	options.PublishAsync.MaxPending = j->window;
	options.PublishAsync.StallWait = 60000;
	check(natsConnection_JetStream(&js, nc, &options), "nats: jetstream");
	jsStreamConfig_Init(&stream);
	stream.Name = "BARE";
	stream.Subjects = (const char *[]){ "bare.>" };
	stream.SubjectsLen = 1;
	check(js_AddStream(&info, js, &stream, NULL, NULL), "nats: stream");
	jsStreamInfo_Destroy(info);
	jsPubOptions_Init(&pub);
	pub.MaxWait = 60000;
	start_clock();
	for (int i = 0; i < j->n; i++) {
		jsPubOptions with = pub;

		snprintf(id, sizeof(id), "%016X-%08X", 1, i);
		with.MsgId = id;
		check(js_PublishAsync(js, "bare.public.bench.insert", j->body, j->bytes, &with),
		      "nats: publish");
	}
	check(js_PublishAsyncComplete(js, &pub), "nats: acknowledgements");
}
#endif

#ifdef HAVE_REDIS
#include <hiredis/hiredis.h>

static void redis_read(redisContext *c)
{
	redisReply *reply;

	check(redisGetReply(c, (void **)&reply), "redis: reply");
	check(reply->type == REDIS_REPLY_ERROR, "redis: refused");
	freeReplyObject(reply);
}

/* XADD with ids of our own, pipelined. */
static void bare_redis(const struct job *j)
{
	redisContext *c = redisConnect(j->host, j->port);
	char id[40];
	const char *argv[] = { "XADD", "bare", id, "event", j->body };
	size_t lengths[] = { 4, 4, 0, 5, (size_t)j->bytes };
	int open = 0;

	check(!c || c->err, "redis: connect");
	start_clock();
	for (int i = 0; i < j->n; i++) {
		lengths[2] = (size_t)snprintf(id, sizeof(id), "1-%d", i + 1);
		check(redisAppendCommandArgv(c, 5, argv, lengths), "redis: append");
		if (++open < j->window)
			continue;
		for (; open > j->window / 2; open--)
			redis_read(c);
	}
	for (; open > 0; open--)
		redis_read(c);
}
#endif

#ifdef HAVE_AMQP
#include <amqp.h>
#include <amqp_tcp_socket.h>

/* Reads confirms until `until` are confirmed. */
static int amqp_confirmed(amqp_connection_state_t c, int confirmed, int until)
{
	while (confirmed < until) {
		amqp_frame_t frame;

		amqp_maybe_release_buffers(c);
		check(amqp_simple_wait_frame(c, &frame) != AMQP_STATUS_OK, "amqp: frame");
		if (frame.frame_type != AMQP_FRAME_METHOD ||
		    frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
			continue;
		confirmed = (int)((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
	}
	return confirmed;
}

/* Persistent, with publisher confirms, to a durable queue; with the properties that messages of the
 * output have. */
static void bare_amqp(const struct job *j)
{
	amqp_connection_state_t c = amqp_new_connection();
	amqp_socket_t *socket = amqp_tcp_socket_new(c);
	amqp_bytes_t exchange = amqp_cstring_bytes("bare"), queue = amqp_cstring_bytes("bare");
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG |
			  AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_APP_ID_FLAG |
			  AMQP_BASIC_TIMESTAMP_FLAG,
		.delivery_mode = AMQP_DELIVERY_PERSISTENT,
		.content_type = amqp_cstring_bytes("application/json"),
		.message_id = amqp_cstring_bytes("0000000000000001-00000001"),
		.app_id = amqp_cstring_bytes("pgherald/1/bench/bench/5f3a9c1200aa0000"),
		.timestamp = 1767325600,
	};
	amqp_bytes_t body = { (size_t)j->bytes, (void *)(uintptr_t)j->body };
	int confirmed = 0;

	check(amqp_socket_open(socket, j->host, j->port), "amqp: connect");
	check(amqp_login(c, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type !=
		      AMQP_RESPONSE_NORMAL,
	      "amqp: login");
	amqp_channel_open(c, 1);
	amqp_exchange_declare(c, 1, exchange, amqp_cstring_bytes("topic"), 0, 1, 0, 0,
			      amqp_empty_table);
	amqp_queue_declare(c, 1, queue, 0, 1, 0, 0, amqp_empty_table);
	amqp_queue_bind(c, 1, queue, exchange, amqp_cstring_bytes("#"), amqp_empty_table);
	amqp_confirm_select(c, 1);
	check(amqp_get_rpc_reply(c).reply_type != AMQP_RESPONSE_NORMAL, "amqp: set-up");
	start_clock();
	for (int i = 0; i < j->n; i++) {
		check(amqp_basic_publish(c, 1, exchange, amqp_cstring_bytes("public.bench.insert"),
					 1, 0, &properties, body),
		      "amqp: publish");
		if (i + 1 - confirmed >= j->window)
			confirmed = amqp_confirmed(c, confirmed, i + 1 - j->window / 2);
	}
	amqp_confirmed(c, confirmed, j->n);
}
#endif

#ifdef HAVE_KAFKA
#include <librdkafka/rdkafka.h>

static int kafka_delivered;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *user)
{
	check(m->err, "kafka: delivery");
	kafka_delivered++;
}

static void kafka_set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char why[200];

	check(rd_kafka_conf_set(conf, name, value, why, sizeof(why)), name);
}

/* Idempotent, acks=all, each with an id. */
static void bare_kafka(const struct job *j)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char brokers[100], why[200], key[20], id[30];
	rd_kafka_t *rk;

	snprintf(brokers, sizeof(brokers), "%s:%d", j->host, j->port);
	kafka_set(conf, "bootstrap.servers", brokers);
	kafka_set(conf, "enable.idempotence", "true");
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
	check(!rk, why);
	start_clock();
	for (int i = 0; i < j->n; i++) {
		int n = snprintf(key, sizeof(key), "{\"id\":%d}", i);
		int m = snprintf(id, sizeof(id), "%016X-%08X", 1, i);

		check(rd_kafka_producev(
			      rk, RD_KAFKA_V_TOPIC("bare"), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
			      RD_KAFKA_V_KEY(key, (size_t)n),
			      RD_KAFKA_V_VALUE((void *)(uintptr_t)j->body, (size_t)j->bytes),
			      RD_KAFKA_V_HEADER("id", id, m), RD_KAFKA_V_END),
		      "kafka: produce");
		while (i + 1 - kafka_delivered >= j->window)
			rd_kafka_poll(rk, 100);
	}
	while (kafka_delivered < j->n)
		rd_kafka_poll(rk, 100);
}
#endif

#ifdef HAVE_MQTT
#include <mosquitto.h>
#include <mqtt_protocol.h>

static int mqtt_published;

static void on_publish(struct mosquitto *m, void *user, int id)
{
	mqtt_published++;
}

/* MQTT 5, QoS 1, each with an id. */
static void bare_mqtt(const struct job *j)
{
	struct mosquitto *m;
	char id[30];

	mosquitto_lib_init();
	m = mosquitto_new("bare", true, NULL);
	mosquitto_publish_callback_set(m, on_publish);
	mosquitto_int_option(m, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
	mosquitto_int_option(m, MOSQ_OPT_SEND_MAXIMUM, j->window);
	check(mosquitto_connect(m, j->host, j->port, 60), "mqtt: connect");
	start_clock();
	for (int i = 0; i < j->n; i++) {
		mosquitto_property *p = NULL;

		snprintf(id, sizeof(id), "%016X-%08X", 1, i);
		mosquitto_property_add_string_pair(&p, MQTT_PROP_USER_PROPERTY, "id", id);
		check(mosquitto_publish_v5(m, NULL, "bench/public/bench/insert", j->bytes, j->body,
					   1, false, p),
		      "mqtt: publish");
		mosquitto_property_free_all(&p);
		while (i + 1 - mqtt_published >= j->window)
			check(mosquitto_loop(m, 100, 1), "mqtt: loop");
	}
	while (mqtt_published < j->n)
		check(mosquitto_loop(m, 100, 1), "mqtt: loop");
}
#endif

#ifdef HAVE_WEBHOOK
#include <curl/curl.h>

/* One request at a time on a connection that is kept. */
static void bare_webhook(const struct job *j)
{
	CURL *c = curl_easy_init();
	struct curl_slist *headers = curl_slist_append(NULL, "content-type: application/json");
	char url[100];

	snprintf(url, sizeof(url), "http://%s:%d/", j->host, j->port);
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(c, CURLOPT_POSTFIELDS, j->body);
	curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)j->bytes);
	curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
	start_clock();
	for (int i = 0; i < j->n; i++)
		check(curl_easy_perform(c), "webhook: request");
}
#endif

#include <libpq-fe.h>

/* COPY, WINDOW rows a transaction. The host is a conninfo. */
static void bare_postgres(const struct job *j)
{
	PGconn *c = PQconnectdb(j->host);
	char *row = mem_alloc((size_t)j->bytes + 100);

	check(PQstatus(c), "postgres: connect");
	PQclear(PQexec(c, "create table bare (id text primary key, event jsonb)"));
	start_clock();
	for (int i = 0; i < j->n;) {
		PQclear(PQexec(c, "copy bare from stdin"));
		for (int k = 0; k < j->window && i < j->n; k++, i++) {
			int n = sprintf(row, "0000000000000001-%08X\t%s\n", i, j->body);

			check(PQputCopyData(c, row, n) != 1, "postgres: copy");
		}
		check(PQputCopyEnd(c, NULL) != 1, "postgres: end");
		for (PGresult *r; (r = PQgetResult(c)); PQclear(r))
			check(PQresultStatus(r) != PGRES_COMMAND_OK, PQerrorMessage(c));
	}
}

static const struct {
	const char *name;
	void (*run)(const struct job *j);
} publishers[] = {
#ifdef HAVE_NATS
	{ "nats", bare_nats },
#endif
#ifdef HAVE_REDIS
	{ "redis", bare_redis },
#endif
#ifdef HAVE_AMQP
	{ "amqp", bare_amqp },
#endif
#ifdef HAVE_KAFKA
	{ "kafka", bare_kafka },
#endif
#ifdef HAVE_MQTT
	{ "mqtt", bare_mqtt },
#endif
#ifdef HAVE_WEBHOOK
	{ "webhook", bare_webhook },
#endif
	{ "postgres", bare_postgres },
};

/* A JSON object of so many bytes. */
static const char *make_body(int bytes)
{
	char *body = mem_alloc((size_t)bytes + 1);

	memset(body, 'x', (size_t)bytes);
	memcpy(body, "{\"a\":\"", 6);
	memcpy(body + bytes - 2, "\"}", 2);
	return body;
}

int main(int argc, char **argv)
{
	struct job j;

	if (argc != 7)
		fail("usage: bare NAME HOST PORT N BYTES WINDOW");
	j = (struct job){ .host = argv[2],
			  .port = atoi(argv[3]),
			  .n = atoi(argv[4]),
			  .bytes = atoi(argv[5]),
			  .window = atoi(argv[6]) };
	j.body = make_body(j.bytes);
	for (size_t i = 0; i < sizeof(publishers) / sizeof(publishers[0]); i++) {
		if (strcmp(publishers[i].name, argv[1]) != 0)
			continue;
		publishers[i].run(&j);
		printf("%.0f %.3f\n", j.n * 1e6 / (double)(clock_wall_us() - began),
		       cpu_seconds() - cpu_began);
		return 0;
	}
	fail("there is no such publisher");
}
