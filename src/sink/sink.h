/*
 * A sink takes batches of finished messages and says which of them it has durably taken. It knows
 * bytes, address, key and position, never an event.
 *
 * Each sink has a thread of its own, which runs the driver's functions. The reader fills a batch
 * (sink_batch), hands it over (sink_send) and reads how far the sink has come (sink_taken).
 * Failure has one cure for all drivers: close, back off, open, send again from the lowest message
 * not taken; messages that the destination already holds (sink->held) are left out.
 *
 * A batch has one owner at a time: reader, queue, sink thread, and back empty. The number of
 * batches is bounded, so memory is, however long a destination is away.
 */
#ifndef PGHERALD_SINK_H
#define PGHERALD_SINK_H

#include "base/err.h"
#include "base/strbuf.h"
#include "event/event.h"

#include <pthread.h>
#include <stdatomic.h>

struct message {
	size_t at; /* in body; the message's bytes are followed by a newline that is not part */
	size_t n;
	size_t address_at, key_at; /* in meta */
	uint32_t address_n, key_n;
	struct position position;
};

struct batch {
	struct batch *next;
	uint64_t first; /* sequence number of messages[0]; the others count up by one */
	uint32_t n;
	uint32_t cap;
	struct message *messages;
	struct strbuf body;
	struct strbuf meta;
};

static inline struct str batch_body(const struct batch *b, uint32_t i)
{
	return (struct str){ b->body.p + b->messages[i].at, b->messages[i].n };
}

/* How far the slot has been told, or is about to be: what a destination remembers beside the
 * messages. A slot that stands beyond it has been moved or made anew by somebody else. */
struct mark {
	uint64_t lsn;
	uint64_t system_id;
	uint32_t timeline;
};

struct sink;

struct sink_driver {
	const char *const *schemes; /* NULL-terminated */
	const char *help;           /* one line: "file:PATH  appends lines" */
	size_t state_size;          /* zeroed before each open, in sink->state */

	/* Connects. Sets sink->held to the last position the destination holds, and sink->mark to
	 * what it remembers, where it can know. Called again after a failure, once close has been
	 * called. */
	int (*open)(struct sink *s, struct err *err);

	/* Sends messages [from, b->n). The batch stays valid until sink_took has passed it. */
	int (*send)(struct sink *s, const struct batch *b, uint32_t from, struct err *err);

	/* Waits up to timeout_ms (-1: for ever) for acknowledgements and calls sink_took; returns
	 * early when sink->wake is readable. NULL: what was sent is taken. */
	int (*poll)(struct sink *s, int timeout_ms, struct err *err);

	/* Everything that can be made durable now is (towards the end). May be NULL. */
	int (*flush)(struct sink *s, struct err *err);

	/* Remembers this durably. NULL: the destination has no place for it. */
	int (*mark)(struct sink *s, const struct mark *m, struct err *err);

	/* Also after a failed open. */
	void (*close)(struct sink *s);
};

enum sink_condition { SINK_OPENING, SINK_OPEN, SINK_RETRYING, SINK_FAILED, SINK_ENDED };

struct sink {
	const struct sink_driver *driver;
	char *url;
	char *label;                 /* the URL without secrets, for people */
	const struct format *format; /* for drivers that read back what they hold */
	void *state;
	struct position held; /* the last position that the destination holds; 0: none or unknown */
	struct mark mark;     /* what it remembers; lsn 0: nothing */
	int wake;             /* eventfd: a batch or the end has come */
	int progress; /* eventfd of the reader, written when something was taken or changed */

	_Atomic uint64_t taken;  /* the last sequence number of an unbroken row that is taken */
	_Atomic uint64_t marked; /* the LSN of the last mark of this process */

	pthread_t thread;
	pthread_mutex_t lock;               /* guards all below */
	struct batch *queued, **queued_end; /* from the reader, not seen by the thread yet */
	struct batch *spare;
	uint32_t nbatches;
	uint32_t in_flight; /* handed over, not reclaimed */
	bool reader_waits;  /* sink_busy was true */
	bool draining, ending;
	struct mark to_mark;
	enum sink_condition condition;
	struct err err; /* why, for RETRYING and FAILED */

	struct batch *sent, **sent_end; /* the thread's own: sent, not all taken */
};

/* Whether a driver knows this URL. */
int sink_check(const char *url, struct err *err) MUST_CHECK;

/* Makes a sink for this URL (kept) and starts its thread. progress is an eventfd. CONFIG when no
 * driver knows the scheme. */
struct sink *sink_start(const char *url, const struct format *format, int progress,
			struct err *err) MUST_CHECK;

/* An empty batch, or NULL when all are in flight. */
struct batch *sink_batch(struct sink *s);

/* For a batch that will not be handed over. NULL is nothing. */
void sink_batch_free(struct batch *b);

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

/* For drivers: everything up to this sequence number is durably taken. From any thread. */
void sink_took(struct sink *s, uint64_t seq);

/* For drivers: whether so much is in flight that the reader may soon have to wait. */
bool sink_pressed(struct sink *s);

/* For drivers: waits until sink->wake is readable or the time is over. */
void sink_wait(struct sink *s, int timeout_ms);

/* The drivers, NULL-terminated. */
extern const struct sink_driver *const sink_drivers[];
extern const struct sink_driver sink_file, sink_stdout, sink_null;

#endif
