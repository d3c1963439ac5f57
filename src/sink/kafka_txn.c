/* The transactions of the Kafka driver, and the topic that keeps positions. */
#include "base/clock.h"
#include "sink/kafka.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static int txn_failed(struct sink *s, rd_kafka_error_t *e, const char *what, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_resp_err_t code = rd_kafka_error_code(e);

	if (!kafka_look(s, err))
		err_set(err, kafka_kind(code), "cannot %s: %s%s", what, rd_kafka_error_string(e),
			kafka_mend(code));
	k->in_txn = false;
	rd_kafka_error_destroy(e);
	return -1;
}

int kafka_txn_begin(struct sink *s, struct err *err)
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
	kafka_count(k);
	return 0;
}

int kafka_txn_commit(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_error_t *e;

	if (!k->in_txn)
		return 0;
	if (put_record(s, err) || kafka_settle(s, err))
		return -1;
	e = rd_kafka_commit_transaction(k->rk, (int)k->stall_ms);
	if (e)
		return txn_failed(s, e, "commit", err);
	k->in_txn = false;
	if (k->txn_n)
		sink_took(s, k->txn_last);
	return 0;
}

int kafka_mark(struct sink *s, const struct mark *m, struct err *err)
{
	struct kafka *k = s->state;

	if (!k->positions)
		return 0;
	s->mark = *m;
	return kafka_txn_begin(s, err) ? -1 : kafka_txn_commit(s, err);
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
		rd_kafka_message_t *m = rd_kafka_consume(topic, 0, KAFKA_OPEN_MS);
		rd_kafka_resp_err_t code = m ? m->err : RD_KAFKA_RESP_ERR__TIMED_OUT;

		if (!code && str_eq((struct str){ m->key, m->key_len }, origin))
			*found |= parse_record(s, m);
		if (m)
			rd_kafka_message_destroy(m);
		if (code == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			return 0;
		if (code)
			return err_set(err, kafka_kind(code),
				       "cannot read the topic of positions: %s",
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
	rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(reader, k->positions, 0, &low,
								    &high, KAFKA_OPEN_MS);

	if (code)
		return err_set(err, kafka_kind(code), "cannot read the topic %s of positions: %s",
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
	rd_kafka_t *reader = kafka_make_reader(&s->url, err);
	int failed;

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
	rd_kafka_resp_err_t code = rd_kafka_metadata(k->rk, 0, topic, &md, KAFKA_OPEN_MS);

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
	return err_set(err, kafka_kind(code), "the topic %s of positions: %s", k->positions,
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
		rd_kafka_AdminOptions_set_request_timeout(options, KAFKA_OPEN_MS, NULL, 0);
		rd_kafka_CreateTopics(k->rk, &topic, 1, options, queue);
		code = take_created(rd_kafka_queue_poll(queue, KAFKA_OPEN_MS));
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
int kafka_txn_open(struct sink *s, struct err *err)
{
	struct kafka *k = s->state;
	rd_kafka_error_t *e = rd_kafka_init_transactions(k->rk, KAFKA_OPEN_MS);

	if (e)
		return txn_failed(s, e, "begin as a transactional producer", err);
	s->held = (struct position){ 0 };
	if (have_positions(s, err) || read_position(s, err))
		return -1;
	k->whole = s->held;
	return 0;
}
