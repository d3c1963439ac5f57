/* The parts of the Kafka driver, see kafka.c. */
#ifndef PGHERALD_KAFKA_H
#define PGHERALD_KAFKA_H

#include "sink/sink.h"

#include <librdkafka/rdkafka.h>

#define KAFKA_OPEN_MS 10000
#define KAFKA_TOPIC_MAX 249
#define KAFKA_BUCKETS 256

struct kafka_topic;

struct kafka {
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;
	struct kafka_topic *topics[KAFKA_BUCKETS];
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

extern const struct sink_driver sink_kafka;

/* ---- kafka_conf.c ---- */

extern const struct sink_param kafka_params[];

int kafka_check(const struct url *url, struct err *err);

/* A client with the URL's settings; NULL with CONFIG. */
rd_kafka_t *kafka_make_producer(struct sink *s, struct err *err);
rd_kafka_t *kafka_make_reader(const struct url *url, struct err *err);

/* ---- kafka.c ---- */

/* What to do about an error, and a word on its mend, or "". */
enum err_kind kafka_kind(rd_kafka_resp_err_t code);
const char *kafka_mend(rd_kafka_resp_err_t code);

/* Takes what was reported so far. -1 when the connection has failed. */
int kafka_look(struct sink *s, struct err *err);

/* Waits until all that was sent is reported. */
int kafka_settle(struct sink *s, struct err *err);

/* One more message is with the library. */
void kafka_count(struct kafka *k);

/* ---- kafka_txn.c ---- */

/* Becomes the transactional producer and reads the position back. */
int kafka_txn_open(struct sink *s, struct err *err);

/* Begins a transaction unless one is open. */
int kafka_txn_begin(struct sink *s, struct err *err);

/* Commits it with the position, if one is open; what is in it is taken. */
int kafka_txn_commit(struct sink *s, struct err *err);

int kafka_mark(struct sink *s, const struct mark *m, struct err *err);

#endif
