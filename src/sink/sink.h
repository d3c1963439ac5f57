/*
 * A sink takes batches of finished messages and says which of them it has durably taken. It knows
 * bytes, address, key and position, never an event.
 *
 * Each sink has a thread of its own, which runs the driver's functions (sink/driver.h). The reader
 * fills a batch (sink_batch), hands it over (sink_send) and reads how far the sink has come
 * (sink_taken). Failure has one cure for all drivers: close, back off, open, send again from the
 * first message not taken; messages that the destination already holds (sink->held) are left out.
 *
 * The number of batches is bounded, so memory is, however long a destination is away.
 */
#ifndef PGHERALD_SINK_H
#define PGHERALD_SINK_H

#include "sink/driver.h"

#include <pthread.h>
#include <stdatomic.h>

struct format;

/* How far the slot has been told, or is about to be: what a destination remembers beside the
 * messages. A slot that stands beyond it has been moved or made anew by somebody else. */
struct mark {
	uint64_t lsn;
	uint64_t system_id;
	uint32_t timeline;
};

/* What happens to a message that the destination refuses for good. */
enum sink_refusal { REFUSED_STOP, REFUSED_SKIP, REFUSED_DEAD_LETTER };

struct sink_config {
	const char *url;
	const struct format *format; /* for drivers that read back what they hold */
	/* Who writes: SYSTEM/DATABASE/SLOT/OUTPUT. No other output of any pgherald has it, so a
	 * destination that several write to can tell their messages and positions apart. */
	const char *origin;
	/* What the messages' addresses look like: "shop.*.*", where * is any text
	 * (flow/template.h). NULL: the URL says it as it stands. */
	const char *addresses;
	const char *content_encoding; /* of messages that are compressed, lives longer; NULL */
	uint32_t max_in_flight;       /* messages; 0: the driver's own limit */
	enum sink_refusal refused;
	struct sink *dead;   /* for dead letters, or NULL */
	bool is_dead_letter; /* this is such a one: nothing is left out because it is held */
	int progress; /* eventfd of the reader, written when something was taken or changed */
};

/* What has happened since the start. Written by the sink's thread, for any to read. */
struct sink_counts {
	_Atomic uint64_t connections, sent, refused; /* sent: messages, each time */
};

enum sink_condition { SINK_OPENING, SINK_OPEN, SINK_RETRYING, SINK_FAILED, SINK_ENDED };

struct sink {
	const struct sink_driver *driver;
	const struct format *format;
	struct url url;
	char *label; /* the URL without secrets, for people */
	char *origin;
	char *addresses;
	const char *content_encoding; /* "br", "gzip", "zstd"; NULL: messages are as they are */
	void *state;
	uint64_t learned;     /* the driver's own, kept when it is opened again; 0: nothing */
	const char *notice;   /* what people should know of this output; set in open, constant */
	struct position held; /* the last position that the destination holds; 0: none or unknown */
	struct mark mark;     /* what it remembers; lsn 0: nothing */
	int64_t not_before;   /* clock_ms before which the destination wants no new connection */
	int wake;             /* eventfd: the reader wants something, or an acknowledgement came */

	int progress;
	uint32_t max_in_flight;
	enum sink_refusal refused;
	struct sink *dead;
	bool is_dead_letter;
	uint64_t letters; /* the last number that dead letters were given here */
	struct arena arena;

	_Atomic uint64_t taken;  /* the last sequence number of an unbroken row that is taken */
	_Atomic uint64_t marked; /* the LSN of the last mark of this process */
	struct sink_counts counts;
	_Atomic bool woken; /* sink_ack has written wake since the thread last looked */

	pthread_t thread;
	pthread_mutex_t lock;               /* guards all below */
	struct batch *queued, **queued_end; /* from the reader, not seen by the thread yet */
	struct batch *spare;
	uint32_t nbatches;
	uint32_t in_flight; /* batches handed over, not reclaimed */
	bool reader_waits;  /* sink_busy was true */
	bool draining, ending;
	struct mark to_mark;
	enum sink_condition condition;
	struct err err;           /* why, for RETRYING and FAILED */
	uint64_t *acked;          /* a bit for each number behind taken; a ring */
	struct refusal *refusals; /* not settled yet, by number */
	uint64_t known;           /* `taken` as the reader was last told */

	struct batch *sent, **sent_end; /* the thread's own: begun to be sent, not all taken */
	uint64_t sent_to;               /* the last number that this connection was given */
	bool proven;                    /* this connection has taken something, or had nothing to */
};

/* Whether a driver knows this URL. */
int sink_check(const char *url, struct err *err) MUST_CHECK;

/* Makes a sink and starts its thread; everything is copied but format and dead. CONFIG for a URL
 * that is wrong. */
struct sink *sink_start(const struct sink_config *config, struct err *err) MUST_CHECK;

/* ---- for the reader ---- */

/* An empty batch, or NULL when all are in flight. */
struct batch *sink_batch(struct sink *s);

/* Whether the thread has enough to do for now: a batch that is not full may as well be filled
 * further. When that ends, `progress` is written. */
bool sink_busy(struct sink *s);

/* Hands over a batch that holds at least one message. */
void sink_send(struct sink *s, struct batch *b);

static inline uint64_t sink_taken(const struct sink *s)
{
	return atomic_load_explicit(&s->taken, memory_order_acquire);
}

/* How it goes, and why when not well. */
enum sink_condition sink_condition(struct sink *s, struct err *err);

/* Asks the thread to have all taken as soon as it can. */
void sink_drain(struct sink *s);

/* Asks the thread to have this remembered; nothing where the destination cannot. */
void sink_mark(struct sink *s, const struct mark *m);

/* The LSN that is remembered, 0 before the first; where the destination cannot, the highest of
 * all. */
static inline uint64_t sink_marked(const struct sink *s)
{
	return s->driver->mark ? atomic_load_explicit(&s->marked, memory_order_acquire) : UINT64_MAX;
}

/* Asks the thread to end; what was handed over before still goes out where nothing is in the way.
 */
void sink_end(struct sink *s);

/* Waits for its end and frees it. A sink that has not ended within timeout_ms is left as it is (its
 * thread may sit in a system call) and -1 is returned. */
int sink_join(struct sink *s, int timeout_ms);

/* ---- for drivers ---- */

/* Everything up to this sequence number is durably taken. From the sink's thread. */
void sink_took(struct sink *s, uint64_t seq);

/* This one message is durably taken; in any order, from any thread, also twice. */
void sink_ack(struct sink *s, uint64_t seq);

/* The destination refuses this one for good. From any thread. */
void sink_refuse(struct sink *s, uint64_t seq, const char *why);

/* Whether so much is in flight that the reader may soon have to wait. */
bool sink_pressed(struct sink *s);

/* Whether the end is wanted: what was refused may then be left unsettled. */
bool sink_ending(struct sink *s);

/* Waits until sink->wake is readable or the time is over. */
void sink_wait(struct sink *s, int timeout_ms);

/* Parameters of the URL, or their defaults. The rows must exist; text is NULL when unset. */
const char *sink_text(const struct sink *s, const char *name);
int64_t sink_int(const struct sink *s, const char *name);
bool sink_bool(const struct sink *s, const char *name);

#endif
