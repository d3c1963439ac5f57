#include "sink/kafka.h"

#include <inttypes.h>
#include <stdio.h>

const struct sink_param kafka_params[] = {
	{ "transactional", PARAM_TEXT, "ID", NULL, 1, 200,
	  "messages and position are one transaction, so nothing is repeated" },
	{ "positions", PARAM_TEXT, "TOPIC", "pgherald-positions", 1, KAFKA_TOPIC_MAX,
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

static const char *param(const struct url *url, const char *name)
{
	return driver_text(&sink_kafka, url, name);
}

static int set(rd_kafka_conf_t *conf, const char *name, const char *value, struct err *err)
{
	char why[300];

	if (!value || rd_kafka_conf_set(conf, name, value, why, sizeof(why)) == RD_KAFKA_CONF_OK)
		return 0;
	if (url_is_secret(str_c(name)))
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
		{ "sticky.partitioning.linger.ms", "0" }, /* or keyless messages part */
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

int kafka_check(const struct url *url, struct err *err)
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

static rd_kafka_t *make(rd_kafka_type_t type, rd_kafka_conf_t *conf, struct err *err)
{
	char why[300];
	rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof(why));

	if (rk)
		return rk;
	rd_kafka_conf_destroy(conf);
	err_set(err, ERR_CONFIG, "%s", why);
	return NULL;
}

rd_kafka_t *kafka_make_producer(struct sink *s, struct err *err)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	if (configure_producer(s, conf, err)) {
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
	return make(RD_KAFKA_PRODUCER, conf, err);
}

rd_kafka_t *kafka_make_reader(const struct url *url, struct err *err)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	if (configure(conf, url, err) || set(conf, "isolation.level", "read_committed", err) ||
	    set(conf, "enable.partition.eof", "true", err)) {
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_ERROR);
	return make(RD_KAFKA_CONSUMER, conf, err);
}
