/*
 * Reads Kafka's topics, all partitions, as nobody's consumer: there is no group, and nothing is
 * committed. Of transactions those that are committed. Topics and partitions that come while it
 * reads are read from their beginning.
 */
#include "base/clock.h"
#include "base/glob.h"
#include "base/mem.h"
#include "sink/kafka.h"
#include "sink/reader.h"

#include <stdio.h>
#include <stdlib.h>

#define LOOK_MS 1000 /* for new topics */
#define METADATA_MS 500

struct read_topic {
	struct read_topic *next;
	rd_kafka_topic_t *handle;
	int npartitions; /* that are read */
};

struct kafka_reader {
	rd_kafka_t *rk;
	rd_kafka_queue_t *events, *queue;
	rd_kafka_message_t *message;
	struct read_topic *topics;
	const char *keys; /* globs; "": all */
	bool whole;       /* topics are read from the beginning */
	bool reached;     /* some broker has answered */
	int64_t looked_ms, answered_ms;
	char last[300]; /* the last words of the library */
};

static bool wanted(const struct kafka_reader *k, const char *topic)
{
	if (!*k->keys)
		return strncmp(topic, "__", 2) != 0; /* Kafka's own */
	for (const char *key = k->keys; key;) {
		size_t n = strcspn(key, ",");

		if (glob_match((struct str){ key, n }, str_c(topic)))
			return true;
		key = key[n] ? key + n + 1 : NULL;
	}
	return false;
}

/* What the library says of its connections. */
static int listen_now(struct kafka_reader *k, struct err *err)
{
	rd_kafka_event_t *event;

	err->kind = ERR_NONE;
	while ((event = rd_kafka_queue_poll(k->events, 0))) {
		rd_kafka_resp_err_t code = rd_kafka_event_error(event);

		if (code && code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
			snprintf(k->last, sizeof(k->last), "%s", rd_kafka_event_error_string(event));
			if (kafka_kind(code) == ERR_CONFIG)
				err_set(err, ERR_CONFIG, "%s%s", k->last, kafka_mend(code));
			else if (strstr(k->last, "verify failed"))
				err_set(err, ERR_CONFIG,
					"%s; ca= names the authority that the brokers' "
					"certificates come from",
					k->last);
		}
		rd_kafka_event_destroy(event);
	}
	return err->kind ? -1 : 0;
}

static struct read_topic *find_topic(struct kafka_reader *k, const char *name)
{
	struct read_topic *t = k->topics;

	while (t && strcmp(rd_kafka_topic_name(t->handle), name) != 0)
		t = t->next;
	if (t)
		return t;
	t = mem_alloc(sizeof(*t));
	t->handle = rd_kafka_topic_new(k->rk, name, NULL);
	t->next = k->topics;
	k->topics = t;
	return t;
}

static int read_topic(struct kafka_reader *k, const rd_kafka_metadata_topic_t *md, struct err *err)
{
	struct read_topic *t;

	if (kafka_kind(md->err) == ERR_CONFIG)
		return err_set(err, ERR_CONFIG, "topic %s: %s", md->topic, rd_kafka_err2str(md->err));
	if (md->err)
		return 0; /* comes and goes */
	for (t = find_topic(k, md->topic); t->npartitions < md->partition_cnt; t->npartitions++)
		if (rd_kafka_consume_start_queue(
			    t->handle, t->npartitions,
			    k->whole ? RD_KAFKA_OFFSET_BEGINNING : RD_KAFKA_OFFSET_END, k->queue))
			return err_set(err, ERR_FAIL, "topic %s: %s", md->topic,
				       rd_kafka_err2str(rd_kafka_last_error()));
	return 0;
}

/* Begins to read what is not read yet. No answer is no error for a while. */
static int look_for_topics(struct kafka_reader *k, struct err *err)
{
	const struct rd_kafka_metadata *md;
	rd_kafka_resp_err_t code = rd_kafka_metadata(k->rk, 1, NULL, &md, METADATA_MS);
	int failed = listen_now(k, err);

	k->looked_ms = clock_ms();
	if (code && !failed && k->looked_ms - k->answered_ms > KAFKA_OPEN_MS)
		failed = err_set(err, kafka_kind(code), "no broker answers: %s",
				 k->last[0] ? k->last : rd_kafka_err2str(code));
	if (code)
		return failed;
	k->reached = true;
	k->answered_ms = k->looked_ms;
	for (int i = 0; i < md->topic_cnt && !failed; i++)
		if (wanted(k, md->topics[i].topic))
			failed = read_topic(k, &md->topics[i], err);
	rd_kafka_metadata_destroy(md);
	return failed;
}

static int reader_kafka_open(struct reader *r, struct err *err)
{
	struct kafka_reader *k = r->state;

	k->keys = reader_addresses(r, &sink_kafka, 0, 0);
	if (kafka_check(&r->url, err))
		return -1;
	k->rk = kafka_make_reader(&r->url, err);
	if (!k->rk)
		return -1;
	k->events = rd_kafka_queue_get_main(k->rk);
	k->queue = rd_kafka_queue_new(k->rk);
	k->whole = reader_from_beginning(r);
	k->answered_ms = clock_ms();
	while (!k->reached)
		if (look_for_topics(k, err))
			return -1;
	k->whole = true;
	return 0;
}

static struct str header(const rd_kafka_message_t *m, const char *name)
{
	rd_kafka_headers_t *headers;
	const void *value;
	size_t n;

	if (rd_kafka_message_headers(m, &headers) ||
	    rd_kafka_header_get_last(headers, name, &value, &n))
		return STR("");
	return (struct str){ value, n };
}

static int reader_kafka_next(struct reader *r, int timeout_ms, struct reader_message *m,
			     struct err *err)
{
	struct kafka_reader *k = r->state;
	const rd_kafka_message_t *got;

	if (k->message)
		rd_kafka_message_destroy(k->message);
	k->message = NULL;
	if (listen_now(k, err) || (clock_ms() - k->looked_ms >= LOOK_MS && look_for_topics(k, err)))
		return -1;
	got = k->message = rd_kafka_consume_queue(k->queue, timeout_ms);
	if (!got || got->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return 0;
	if (got->err && kafka_kind(got->err) == ERR_CONFIG)
		return err_set(err, ERR_CONFIG, "topic %s: %s",
			       got->rkt ? rd_kafka_topic_name(got->rkt) : "?",
			       rd_kafka_message_errstr(got));
	if (got->err)
		return 0; /* the library tries again */
	*m = (struct reader_message){
		str_c(rd_kafka_topic_name(got->rkt)),
		header(got, "id"),
		{ got->payload, got->len },
		header(got, "content-encoding"),
	};
	return 1;
}

static void reader_kafka_close(struct reader *r)
{
	struct kafka_reader *k = r->state;

	if (!k->rk)
		return;
	if (k->message)
		rd_kafka_message_destroy(k->message);
	while (k->topics) {
		struct read_topic *t = k->topics;

		for (int i = 0; i < t->npartitions; i++)
			rd_kafka_consume_stop(t->handle, i);
		k->topics = t->next;
		rd_kafka_topic_destroy(t->handle);
		free(t);
	}
	rd_kafka_queue_destroy(k->queue);
	rd_kafka_queue_destroy(k->events);
	rd_kafka_destroy(k->rk);
}

static const struct sink_param params[] = { PARAM_FROM, { 0 } };

const struct reader_driver reader_kafka = {
	.name = "kafka",
	.schemes = (const char *const[]){ "kafka", NULL },
	.help = "kafka://HOST/TOPIC  looks on at topics, without a group",
	.params = params,
	.state_size = sizeof(struct kafka_reader),
	.open = reader_kafka_open,
	.next = reader_kafka_next,
	.close = reader_kafka_close,
};
