#include "sink/sink.h"

#include "base/backoff.h"
#include "base/clock.h"
#include "base/mem.h"
#include "sink/refuse.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* How much may be in flight to one sink: batches, and messages in all of them. */
#define MAX_BATCHES 32
#define WINDOW 16384
#define EVENT_MESSAGES 4 /* no event is more */

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MOST_MS 10000

static void signal_fd(int fd)
{
	uint64_t one = 1;

	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void set_condition(struct sink *s, enum sink_condition condition, const struct err *why)
{
	pthread_mutex_lock(&s->lock);
	s->condition = condition;
	if (why)
		s->err = *why;
	pthread_mutex_unlock(&s->lock);
	signal_fd(s->progress);
}

enum sink_condition sink_condition(struct sink *s, struct err *err)
{
	enum sink_condition condition;

	pthread_mutex_lock(&s->lock);
	condition = s->condition;
	*err = s->err;
	pthread_mutex_unlock(&s->lock);
	return condition;
}

/* From other threads than the sink's: it looks again, once for many. */
static void wake_thread(struct sink *s)
{
	if (!pthread_equal(pthread_self(), s->thread) && !atomic_exchange(&s->woken, true))
		signal_fd(s->wake);
}

static uint64_t *window_word(const struct sink *s, uint64_t seq)
{
	return &s->acked[seq % WINDOW / 64];
}

static bool is_acked(const struct sink *s, uint64_t seq)
{
	return *window_word(s, seq) >> seq % 64 & 1;
}

/* Takes all up to seq, and what is acknowledged behind it. The places in the ring are free again. */
static void take(struct sink *s, uint64_t seq)
{
	uint64_t taken = sink_taken(s);

	while (taken < seq || is_acked(s, taken + 1)) {
		taken++;
		*window_word(s, taken) &= ~((uint64_t)1 << taken % 64);
	}
	atomic_store_explicit(&s->taken, taken, memory_order_release);
}

void sink_took(struct sink *s, uint64_t seq)
{
	pthread_mutex_lock(&s->lock);
	take(s, seq);
	pthread_mutex_unlock(&s->lock);
}

void sink_ack(struct sink *s, uint64_t seq)
{
	uint64_t taken;

	pthread_mutex_lock(&s->lock);
	taken = sink_taken(s);
	if (seq > taken && seq - taken < WINDOW) {
		*window_word(s, seq) |= (uint64_t)1 << seq % 64;
		take(s, taken);
	}
	pthread_mutex_unlock(&s->lock);
	wake_thread(s);
}

/* After a reconnect it is refused again; what was settled before stays so. */
static bool add_refusal(struct sink *s, struct refusal *r)
{
	struct refusal **at = &s->refusals;

	if (r->seq <= sink_taken(s) || is_acked(s, r->seq))
		return false;
	while (*at && (*at)->seq < r->seq)
		at = &(*at)->next;
	r->next = *at;
	*at = r;
	return true;
}

void sink_refuse(struct sink *s, uint64_t seq, const char *why)
{
	struct refusal *r = mem_alloc(sizeof(*r));
	bool added;

	r->seq = seq;
	r->why = mem_strdup(why);
	pthread_mutex_lock(&s->lock);
	added = add_refusal(s, r);
	pthread_mutex_unlock(&s->lock);
	if (!added)
		refuse_free(r);
	wake_thread(s);
}

void sink_wait(struct sink *s, int timeout_ms)
{
	struct pollfd pfd = { s->wake, POLLIN, 0 };

	poll(&pfd, 1, timeout_ms);
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

	atomic_store(&s->woken, false);
	if (read(s->wake, &n, sizeof(n)) < 0) {
		/* nothing was signalled */
	}
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
			signal_fd(s->progress);
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
		signal_fd(s->progress);
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

bool sink_ending(struct sink *s)
{
	bool ending;

	pthread_mutex_lock(&s->lock);
	ending = s->ending;
	pthread_mutex_unlock(&s->lock);
	return ending;
}

/* How many messages may be sent now; waits until it is at least one, or the end is wanted (0). */
static int window_room(struct sink *s, uint32_t *room, struct err *err)
{
	uint32_t most = WINDOW - EVENT_MESSAGES;

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
	signal_fd(s->progress);
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

static void *run(void *arg)
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
			set_condition(s, SINK_FAILED, &err);
			return NULL;
		}
		if (failed)
			set_condition(s, SINK_RETRYING, &err);
	} while (failed && back_off(s, &backoff));
	set_condition(s, SINK_ENDED, NULL);
	return NULL;
}

struct batch *sink_batch(struct sink *s)
{
	struct batch *b;

	pthread_mutex_lock(&s->lock);
	b = s->spare;
	if (b) {
		s->spare = b->next;
	} else if (s->nbatches < MAX_BATCHES) {
		s->nbatches++;
		b = mem_alloc(sizeof(*b));
	}
	pthread_mutex_unlock(&s->lock);
	if (b)
		b->next = NULL;
	return b;
}

bool sink_busy(struct sink *s)
{
	bool busy;

	pthread_mutex_lock(&s->lock);
	busy = s->queued != NULL;
	s->reader_waits = busy;
	pthread_mutex_unlock(&s->lock);
	return busy;
}

bool sink_pressed(struct sink *s)
{
	bool pressed;

	pthread_mutex_lock(&s->lock);
	pressed = s->in_flight >= MAX_BATCHES / 2;
	pthread_mutex_unlock(&s->lock);
	return pressed;
}

void sink_send(struct sink *s, struct batch *b)
{
	bool was_empty;

	b->next = NULL;
	pthread_mutex_lock(&s->lock);
	was_empty = !s->queued;
	s->in_flight++;
	*s->queued_end = b;
	s->queued_end = &b->next;
	pthread_mutex_unlock(&s->lock);
	if (was_empty)
		signal_fd(s->wake);
}

void sink_drain(struct sink *s)
{
	pthread_mutex_lock(&s->lock);
	s->draining = true;
	pthread_mutex_unlock(&s->lock);
	signal_fd(s->wake);
}

void sink_mark(struct sink *s, const struct mark *m)
{
	if (!s->driver->mark)
		return;
	pthread_mutex_lock(&s->lock);
	s->to_mark = *m;
	pthread_mutex_unlock(&s->lock);
	signal_fd(s->wake);
}

void sink_end(struct sink *s)
{
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	pthread_mutex_unlock(&s->lock);
	signal_fd(s->wake);
}

static void free_batches(struct batch *b)
{
	while (b) {
		struct batch *next = b->next;

		batch_free(b);
		b = next;
	}
}

static void sink_free(struct sink *s)
{
	free_batches(s->queued);
	free_batches(s->spare);
	free_batches(s->sent);
	refuse_free(s->refusals);
	pthread_mutex_destroy(&s->lock);
	close(s->wake);
	arena_release(&s->arena);
	free(s->acked);
	free(s->label);
	free(s->origin);
	free(s->addresses);
	free(s->state);
	free(s);
}

const char *sink_text(const struct sink *s, const char *name)
{
	return driver_text(s->driver, &s->url, name);
}

int64_t sink_int(const struct sink *s, const char *name)
{
	const char *value = sink_text(s, name);

	return value ? strtoll(value, NULL, 10) : 0;
}

bool sink_bool(const struct sink *s, const char *name)
{
	const char *value = sink_text(s, name);

	return value && strcmp(value, "true") == 0;
}

static char *mask(const char *url)
{
	struct strbuf b = { 0 };

	url_mask(&b, str_c(url));
	strbuf_cstr(&b);
	return b.p;
}

int sink_check(const char *url, struct err *err)
{
	struct arena arena = { 0 };
	struct url parsed;
	char *label;
	int failed = driver_find(&parsed, &arena, url, err) ? 0 : -1;

	if (failed) {
		label = mask(url);
		err_add(err, "output %s", label);
		free(label);
	}
	arena_release(&arena);
	return failed;
}

static struct sink *make(const struct sink_config *c, struct err *err)
{
	struct sink *s = mem_alloc(sizeof(*s));

	s->label = mask(c->url);
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->queued_end = &s->queued;
	s->sent_end = &s->sent;
	pthread_mutex_init(&s->lock, NULL);
	s->driver = driver_find(&s->url, &s->arena, c->url, err);
	if (!s->driver) {
		err_add(err, "output %s", s->label);
		sink_free(s);
		return NULL;
	}
	s->format = c->format;
	s->content_encoding = c->content_encoding;
	s->origin = mem_strdup(c->origin);
	s->addresses = mem_strdup(c->addresses ? c->addresses : driver_address(s->driver, &s->url));
	s->state = mem_alloc(s->driver->state_size);
	s->acked = mem_alloc(WINDOW / 8);
	s->max_in_flight = c->max_in_flight ? c->max_in_flight : s->driver->max_in_flight;
	s->refused = c->refused;
	s->dead = c->dead;
	s->is_dead_letter = c->is_dead_letter;
	s->progress = c->progress;
	return s;
}

struct sink *sink_start(const struct sink_config *config, struct err *err)
{
	struct sink *s = make(config, err);
	sigset_t all, before;
	int failed;

	if (!s)
		return NULL;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
	failed = pthread_create(&s->thread, NULL, run, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed) {
		err_set(err, ERR_FAIL, "cannot start a thread for %s", s->label);
		sink_free(s);
		return NULL;
	}
	return s;
}

int sink_join(struct sink *s, int timeout_ms)
{
	struct timespec end;

	if (!s)
		return 0;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += timeout_ms / 1000;
	end.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (end.tv_nsec >= 1000000000) {
		end.tv_sec++;
		end.tv_nsec -= 1000000000;
	}
	if (pthread_timedjoin_np(s->thread, NULL, &end))
		return -1;
	sink_free(s);
	return 0;
}
