#include "sink/sink_thread.h"

#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "sink/refuse.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define EVENT_MESSAGES 4 /* no event is more */

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MOST_MS 10000

static void set_condition(struct sink *s, enum sink_condition condition, const struct err *why)
{
	pthread_mutex_lock(&s->lock);
	s->condition = condition;
	if (why)
		s->err = *why;
	pthread_mutex_unlock(&s->lock);
	sink_thread_signal(s->progress);
}

/* What the reader wants of the thread. */
struct wish {
	struct batch *batch;
	struct mark mark;
	bool drain, end; /* when there is no batch */
};

static void empty_wake(struct sink *s)
{
	uint64_t n;

	if (read(s->wake, &n, sizeof(n)) < 0) {
		/* nothing was signalled */
	}
	atomic_store(&s->woken, false);
}

/* Takes the next batch and the other wishes. */
static struct wish next_wish(struct sink *s)
{
	struct wish wish;
	struct batch *b;

	empty_wake(s);
	pthread_mutex_lock(&s->lock);
	b = s->queued;
	if (b) {
		s->queued = b->next;
		if (!s->queued)
			s->queued_end = &s->queued;
		b->next = NULL;
		if (!s->queued && s->reader_waits) {
			s->reader_waits = false;
			sink_thread_signal(s->progress);
		}
	}
	wish = (struct wish){ b, s->to_mark, s->draining && !b, s->ending && !b };
	pthread_mutex_unlock(&s->lock);
	return wish;
}

/* After a failure all is well only when something is taken: one can connect to what is full. */
static void prove(struct sink *s)
{
	if (!s->proven)
		set_condition(s, SINK_OPEN, NULL);
	s->proven = true;
}

/* Gives batches back that are wholly taken, and tells the reader of progress. */
static void reclaim(struct sink *s)
{
	uint64_t taken = sink_taken(s);

	while (s->sent && s->sent->first + s->sent->n - 1 <= taken) {
		struct batch *b = s->sent;

		s->sent = b->next;
		if (!s->sent)
			s->sent_end = &s->sent;
		batch_clear(b);
		pthread_mutex_lock(&s->lock);
		b->next = s->spare;
		s->spare = b;
		s->in_flight--;
		pthread_mutex_unlock(&s->lock);
	}
	if (taken != s->known) {
		s->known = taken;
		prove(s);
		sink_thread_signal(s->progress);
	}
}

/* Acknowledgements that have come, or that come within the time. */
static int poll_sink(struct sink *s, int timeout_ms, struct err *err)
{
	if (s->driver->poll) {
		if (s->driver->poll(s, timeout_ms, err))
			return -1;
	} else if (timeout_ms) {
		sink_wait(s, timeout_ms);
	}
	return refuse_settle(s, err);
}

/* How many messages may be sent now; waits until it is at least one, or the end is wanted (0). */
static int window_room(struct sink *s, uint32_t *room, struct err *err)
{
	uint32_t most = SINK_WINDOW - EVENT_MESSAGES;

	if (s->max_in_flight && s->max_in_flight < most)
		most = s->max_in_flight;
	for (;;) {
		uint64_t taken = sink_taken(s), open = s->sent_to > taken ? s->sent_to - taken : 0;

		*room = open < most ? most - (uint32_t)open : 0;
		if (*room || sink_ending(s))
			return 0;
		empty_wake(s);
		if (sink_taken(s) == taken && poll_sink(s, 1000, err))
			return -1;
		reclaim(s);
	}
}

/* The first message of the batch that is neither taken nor held by the destination. Held ones at
 * the front count as taken once everything before them is. */
static uint32_t first_to_send(struct sink *s, const struct batch *b)
{
	uint64_t taken = sink_taken(s);
	uint32_t from = taken < b->first ? 0 : (uint32_t)(taken - b->first + 1);

	if (!s->is_dead_letter)
		while (from < b->n && position_cmp(b->messages[from].position, s->held) <= 0)
			sink_ack(s, b->first + from++);
	return from;
}

/* Where to end when there is room for so many from here on: not within an event's messages, and
 * before what was refused for good. */
static uint32_t end_of_row(const struct batch *b, uint32_t from, uint32_t room)
{
	uint32_t to = room < b->n - from ? from + room : b->n;

	while (to < b->n && b->messages[to].part)
		to++;
	for (uint32_t i = from; i < to; i++)
		if (b->messages[i].refused)
			return i;
	return to;
}

static int send_batch(struct sink *s, const struct batch *b, struct err *err)
{
	uint32_t n = b->n; /* the batch is given back as soon as all of it is taken */
	uint64_t first = b->first;

	for (uint32_t from = first_to_send(s, b), to, room; from < n; from = to) {
		if (b->messages[from].refused) {
			to = from + 1;
			continue;
		}
		if (window_room(s, &room, err))
			return -1;
		if (room == 0)
			return 0;
		to = end_of_row(b, from, room);
		s->sent_to = first + to - 1;
		s->counts.sent += to - from;
		if (s->driver->send(s, b, from, to, err))
			return -1;
		if (!s->driver->poll)
			sink_took(s, s->sent_to);
	}
	return 0;
}

static void append_sent(struct sink *s, struct batch *b)
{
	*s->sent_end = b;
	s->sent_end = &b->next;
}

static int put_mark(struct sink *s, const struct mark *m, struct err *err)
{
	if (m->lsn == atomic_load_explicit(&s->marked, memory_order_relaxed))
		return 0;
	if (s->driver->mark(s, m, err))
		return -1;
	atomic_store_explicit(&s->marked, m->lsn, memory_order_release);
	sink_thread_signal(s->progress);
	return 0;
}

/* The first batch with messages behind this number, among those that are not given back. */
static const struct batch *sent_after(const struct sink *s, uint64_t seq)
{
	const struct batch *b = s->sent;

	while (b && b->first + b->n - 1 <= seq)
		b = b->next;
	return b;
}

/* Sends again, in order, what an earlier connection was given and that is not taken. */
static int send_again(struct sink *s, struct err *err)
{
	const struct batch *b;
	uint64_t last = 0;

	reclaim(s);
	s->sent_to = sink_taken(s);
	while ((b = sent_after(s, last))) {
		last = b->first + b->n - 1;
		if (send_batch(s, b, err))
			return -1;
	}
	return 0;
}

/* One connection's life. Returns 0 at the end, -1 when the connection failed. */
static int serve(struct sink *s, struct err *err)
{
	if (send_again(s, err))
		return -1;
	for (;;) {
		struct wish wish = next_wish(s);

		if (wish.batch) {
			append_sent(s, wish.batch);
			if (send_batch(s, wish.batch, err))
				return -1;
		}
		if ((wish.drain || wish.end) && s->driver->flush && s->driver->flush(s, err))
			return -1;
		if (put_mark(s, &wish.mark, err))
			return -1;
		if (wish.end)
			return 0;
		reclaim(s);
		if (!s->sent)
			prove(s);
		if (poll_sink(s, wish.batch ? 0 : -1, err))
			return -1;
		reclaim(s);
	}
}

/* Backs off, but not from the wish to end. Returns false when the end was asked for. */
static bool back_off(struct sink *s, struct backoff *backoff)
{
	int64_t end = clock_ms() + backoff_next(backoff);
	bool ending = false;

	if (end < s->not_before)
		end = s->not_before;
	while (!ending && clock_ms() < end) {
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
		ending = sink_ending(s);
	}
	return !ending;
}

static void log_counts(const struct sink *s)
{
	log_debug("output %s has ended: %llu messages taken, %llu sent, %llu refused, %llu "
		  "connections",
		  s->label, (unsigned long long)sink_taken(s), (unsigned long long)s->counts.sent,
		  (unsigned long long)s->counts.refused, (unsigned long long)s->counts.connections);
}

void *sink_thread_run(void *arg)
{
	struct sink *s = arg;
	struct backoff backoff = { BACKOFF_FIRST_MS, BACKOFF_MOST_MS, 0 };
	struct err err = { 0 }, refusal;
	int failed;

	do {
		memset(s->state, 0, s->driver->state_size);
		s->proven = false;
		failed = s->driver->open(s, &err);
		if (!failed) {
			s->counts.connections++;
			if (s->condition == SINK_OPENING)
				prove(s);
			failed = serve(s, &err);
		}
		s->driver->close(s);
		if (s->proven)
			backoff_reset(&backoff);
		if (failed && err.kind == ERR_RETRY && refuse_settle(s, &refusal))
			err = refusal;
		if (failed && err.kind != ERR_RETRY) {
			log_counts(s);
			set_condition(s, SINK_FAILED, &err);
			return NULL;
		}
		if (failed)
			set_condition(s, SINK_RETRYING, &err);
	} while (failed && back_off(s, &backoff));
	log_counts(s);
	set_condition(s, SINK_ENDED, NULL);
	return NULL;
}
