#include "base/left.h"
#include "base/mem.h"
#include "sink/refuse.h"
#include "sink/sink_thread.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_BATCHES 32 /* in flight to one sink */

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
		sink_thread_signal(s->wake);
}

static uint64_t *window_word(const struct sink *s, uint64_t seq)
{
	return &s->acked[seq % SINK_WINDOW / 64];
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
	if (seq > taken && seq - taken < SINK_WINDOW) {
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

bool sink_ending(struct sink *s)
{
	bool ending;

	pthread_mutex_lock(&s->lock);
	ending = s->ending;
	pthread_mutex_unlock(&s->lock);
	return ending;
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
	busy = s->queued || s->in_flight >= MAX_BATCHES / 2;
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
		sink_thread_signal(s->wake);
}

void sink_drain(struct sink *s)
{
	pthread_mutex_lock(&s->lock);
	s->draining = true;
	pthread_mutex_unlock(&s->lock);
	sink_thread_signal(s->wake);
}

void sink_mark(struct sink *s, const struct mark *m)
{
	if (!s->driver->mark)
		return;
	pthread_mutex_lock(&s->lock);
	s->to_mark = *m;
	pthread_mutex_unlock(&s->lock);
	sink_thread_signal(s->wake);
}

void sink_end(struct sink *s)
{
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	pthread_mutex_unlock(&s->lock);
	sink_thread_signal(s->wake);
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
	s->acked = mem_alloc(SINK_WINDOW / 8);
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
	failed = pthread_create(&s->thread, NULL, sink_thread_run, s);
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
	if (pthread_timedjoin_np(s->thread, NULL, &end)) {
		left_note();
		return -1;
	}
	sink_free(s);
	return 0;
}
