#include "sink/sink.h"

#include "base/backoff.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/url.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* How much may be in flight to one sink. */
#define MAX_BATCHES 32

/* A batch that grew over this for one huge message gives its memory back. */
#define KEEP_BYTES (1u << 20)

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MOST_MS 10000

const struct sink_driver *const sink_drivers[] = { &sink_stdout, &sink_file, &sink_null, NULL };

static const struct sink_driver *find_driver(const char *url)
{
	const char *colon = strchr(url, ':');
	size_t n = colon ? (size_t)(colon - url) : 0;

	for (size_t i = 0; sink_drivers[i]; i++)
		for (const char *const *scheme = sink_drivers[i]->schemes; *scheme; scheme++)
			if (n && strlen(*scheme) == n && memcmp(*scheme, url, n) == 0)
				return sink_drivers[i];
	return NULL;
}

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

void sink_took(struct sink *s, uint64_t seq)
{
	atomic_store_explicit(&s->taken, seq, memory_order_release);
	signal_fd(s->progress);
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

/* Takes the next batch and the other wishes; empties the wake-up. */
static struct wish next_wish(struct sink *s)
{
	struct wish wish;
	struct batch *b;
	uint64_t n;

	if (read(s->wake, &n, sizeof(n)) < 0) {
		/* nothing was signalled */
	}
	pthread_mutex_lock(&s->lock);
	b = s->queued;
	if (b) {
		s->queued = b->next;
		if (!s->queued)
			s->queued_end = &s->queued;
		b->next = NULL;
		if (s->queued) {
			signal_fd(s->wake);
		} else if (s->reader_waits) {
			s->reader_waits = false;
			signal_fd(s->progress);
		}
	}
	wish = (struct wish){ b, s->to_mark, s->draining && !b, s->ending && !b };
	pthread_mutex_unlock(&s->lock);
	return wish;
}

/* Gives batches back that are wholly taken. */
static void reclaim(struct sink *s)
{
	uint64_t taken = sink_taken(s);

	while (s->sent && s->sent->first + s->sent->n - 1 <= taken) {
		struct batch *b = s->sent;

		s->sent = b->next;
		if (!s->sent)
			s->sent_end = &s->sent;
		b->n = 0;
		b->body.n = b->meta.n = 0;
		strbuf_shrink(&b->body, KEEP_BYTES);
		strbuf_shrink(&b->meta, KEEP_BYTES);
		pthread_mutex_lock(&s->lock);
		b->next = s->spare;
		s->spare = b;
		s->in_flight--;
		pthread_mutex_unlock(&s->lock);
		signal_fd(s->progress);
	}
}

/* Sends what is not taken and what the destination does not hold. Held messages at the front count
 * as taken once everything before them is; drivers report cumulatively, so the rest of the batch
 * covers them. */
static int send_batch(struct sink *s, const struct batch *b, struct err *err)
{
	uint64_t taken = sink_taken(s);
	uint32_t from = taken < b->first ? 0 : (uint32_t)(taken - b->first + 1);

	while (from < b->n && position_cmp(b->messages[from].position, s->held) <= 0)
		from++;
	if (from < b->n && s->driver->send(s, b, from, err))
		return -1;
	if (!s->driver->poll || (from == b->n && taken + 1 == b->first))
		sink_took(s, b->first + b->n - 1);
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

/* One connection's life: resend what was not taken, then go on with what comes. Returns 0 at the
 * end, -1 when the connection failed. */
static int serve(struct sink *s, struct err *err)
{
	for (struct batch *b = s->sent; b; b = b->next)
		if (send_batch(s, b, err))
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
		if (s->driver->poll && s->driver->poll(s, wish.batch ? 0 : -1, err))
			return -1;
		reclaim(s);
		if (!s->driver->poll && !wish.batch)
			sink_wait(s, -1);
	}
}

/* Backs off, but not from the wish to end. Returns false when the end was asked for. */
static bool back_off(struct sink *s, struct backoff *backoff)
{
	int64_t end = clock_ms() + backoff_next(backoff);
	bool ending = false;

	while (!ending && clock_ms() < end) {
		struct timespec nap = { 0, 20000000 };

		nanosleep(&nap, NULL);
		pthread_mutex_lock(&s->lock);
		ending = s->ending;
		pthread_mutex_unlock(&s->lock);
	}
	return !ending;
}

static void *run(void *arg)
{
	struct sink *s = arg;
	struct backoff backoff = { BACKOFF_FIRST_MS, BACKOFF_MOST_MS, 0 };
	struct err err = { 0 };
	int failed;

	do {
		memset(s->state, 0, s->driver->state_size);
		failed = s->driver->open(s, &err);
		if (!failed) {
			set_condition(s, SINK_OPEN, NULL);
			backoff_reset(&backoff);
			failed = serve(s, &err);
		}
		s->driver->close(s);
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

void sink_batch_free(struct batch *b)
{
	if (!b)
		return;
	strbuf_release(&b->body);
	strbuf_release(&b->meta);
	free(b->messages);
	free(b);
}

static void free_batches(struct batch *b)
{
	while (b) {
		struct batch *next = b->next;

		sink_batch_free(b);
		b = next;
	}
}

static void sink_free(struct sink *s)
{
	free_batches(s->queued);
	free_batches(s->spare);
	free_batches(s->sent);
	pthread_mutex_destroy(&s->lock);
	close(s->wake);
	free(s->url);
	free(s->label);
	free(s->state);
	free(s);
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
	char *label;

	if (find_driver(url))
		return 0;
	label = mask(url);
	err_set(err, ERR_CONFIG, "no output knows \"%s\"; see pgherald stream --help", label);
	free(label);
	return -1;
}

struct sink *sink_start(const char *url, const struct format *format, int progress, struct err *err)
{
	const struct sink_driver *driver = find_driver(url);
	sigset_t all, before;
	struct sink *s;
	int failed;

	if (sink_check(url, err))
		return NULL;
	s = mem_alloc(sizeof(*s));
	s->driver = driver;
	s->url = mem_strdup(url);
	s->label = mask(url);
	s->format = format;
	s->state = mem_alloc(driver->state_size);
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->progress = progress;
	s->queued_end = &s->queued;
	s->sent_end = &s->sent;
	pthread_mutex_init(&s->lock, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
	failed = pthread_create(&s->thread, NULL, run, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed) {
		err_set(err, ERR_FAIL, "cannot start a thread for %s", url);
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
