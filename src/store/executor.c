#include "store/executor.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* A partition is given back after this part of its lease, so that others get their turn and the
 * lease does not end under our hands. */
#define TURN 4

/* Pauses shorter than this are not worth being woken from. */
#define SLEEPS_MS 2

/* ---- waiting ---- */

/* The next step is due then. */
static void wake_in(struct executor *e, int ms)
{
	struct itimerspec in = { .it_value = { ms / 1000, ms % 1000 * 1000000 + 1 } };

	timerfd_settime(e->timer, 0, &in, NULL);
}

static void forget_socket(struct executor *e)
{
	if (e->socket >= 0)
		epoll_ctl(e->epoll, EPOLL_CTL_DEL, e->socket, NULL);
	e->socket = -1;
}

/* Asks to be woken, once for each connection. False where there is no waking. */
static bool listens(struct executor *e)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct err ignored;

	if (e->socket >= 0 || !e->listens || !e->store.state)
		return e->socket >= 0;
	if (e->store.backend->listen(&e->store, &e->socket, &ignored))
		e->socket = -1; /* the next look tells what is wrong */
	if (e->socket >= 0)
		epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->socket, &event);
	return e->socket >= 0;
}

/* Looks again soon at first, then later and later; who has looked in vain some times is woken too. */
static void sleep_now(struct executor *e)
{
	struct err ignored;
	int64_t ms;

	e->sleep_ms = e->sleep_ms ? 2 * e->sleep_ms : 1;
	if (e->sleep_ms > e->max_sleep_ms)
		e->sleep_ms = e->max_sleep_ms;
	ms = e->sleep_ms;
	if (ms >= SLEEPS_MS && listens(e)) {
		ms = e->max_sleep_ms;
		if (e->store.backend->sleep(&e->store, e->name, &ms, &ignored))
			ms = e->sleep_ms; /* the next look tells what is wrong */
		else if (e->store.backend->drain(&e->store))
			ms = 0; /* woken before it slept */
	}
	wake_in(e, (int)ms);
}

/* True when something is due. */
static bool wait_due(struct executor *e, int timeout_ms)
{
	struct epoll_event events[3];
	uint64_t count;
	int n = epoll_wait(e->epoll, events, 3, timeout_ms);

	if (n <= 0)
		return false;
	if (read(e->timer, &count, sizeof(count)) > 0 || read(e->wake, &count, sizeof(count)) > 0)
		return true;
	if (e->store.state)
		e->store.backend->drain(&e->store);
	e->sleep_ms = 0; /* something happened */
	return true;
}

void executor_stop(struct executor *e)
{
	uint64_t one = 1;

	e->stopped = 1;
	if (write(e->wake, &one, sizeof(one)) < 0) {
		/* the timer will see it */
	}
}

/* ---- work ---- */

static void release_lease(struct executor *e)
{
	struct err ignored;

	if (e->has_lease && e->store.state && store_call(&e->store, &ignored, release, &e->lease) < 0)
		log_debug("%s", ignored.msg); /* it ends by itself */
	e->has_lease = false;
}

static bool turn_is_over(const struct executor *e)
{
	return clock_ms() - e->claimed_ms > e->lease_ms / TURN;
}

/* Handles up to e->most events in the open transaction; *n is the number of those that are done.
 * Returns why the next one is not, or NULL. */
static const char *handle(struct executor *e, size_t *n)
{
	void *transaction = e->store.backend->handle(&e->store);
	size_t most = e->most ? e->most : e->page.n;
	const char *why = NULL;

	for (*n = 0; *n < most && !e->stopped; ++*n) {
		if (*n && turn_is_over(e))
			break;
		why = e->fn(e->user, &e->page.events[*n], transaction);
		if (why)
			break;
	}
	return why;
}

/* The event at hand failed, and nothing is done before it in this transaction. */
static int give_up(struct executor *e, const struct store_event *event, const char *why,
		   struct err *err)
{
	enum store_outcome outcome;

	if (!e->store.state)
		return err_set(err, ERR_RETRY, "the connection was lost");
	if (store_call(&e->store, err, fail, &e->lease, event->position, why, &outcome))
		return -1;
	e->has_lease = outcome == STORE_PARKED; /* otherwise it was given back */
	return 0;
}

/* One transaction: the handler's work and the acknowledgement. Where an event behind the first one
 * fails, those before it are done again alone, and it comes first the next time. */
static int handle_page(struct executor *e, struct err *err)
{
	char why[sizeof(err->msg)];
	const char *said;
	size_t n;

	if (store_begin(&e->store, err))
		return -1;
	said = handle(e, &n);
	if (!said && n == 0) { /* stopped */
		store_rollback(&e->store);
		return 0;
	}
	if (!said) {
		e->most = 0;
		e->drained = n == e->page.n && n < (size_t)e->batch;
		if (store_call(&e->store, err, ack, &e->lease, e->page.events[n - 1].position) < 0) {
			store_rollback(&e->store);
			return -1;
		}
		return store_commit(&e->store, err);
	}
	snprintf(why, sizeof(why), "%s", said);
	store_rollback(&e->store);
	if (n) {
		e->most = n;
		return 0;
	}
	return give_up(e, &e->page.events[0], why, err);
}

/* 1: something was done, 0: there is nothing to do now. */
static int work(struct executor *e, struct err *err)
{
	int found;

	if (!e->begun && e->begin(e->user, err))
		return -1;
	e->begun = true;
	if (!e->has_lease) {
		e->lease = (struct store_lease){ .name = e->name };
		found = store_call(&e->store, err, claim, e->owner, e->lease_ms, &e->lease);
		if (found <= 0)
			return found;
		e->has_lease = true;
		e->claimed_ms = clock_ms();
	}
	if (store_call(&e->store, err, fetch, &e->lease, -1, e->batch, &e->page))
		return -1;
	e->drained = e->page.n == 0;
	if (e->page.n && handle_page(e, err))
		return -1;
	if (e->drained || turn_is_over(e))
		release_lease(e);
	return 1;
}

/* What becomes of an error: a lease that was lost is somebody else's work, a connection is opened
 * again, and the rest is for the caller. */
static int recover(struct executor *e, struct err *err)
{
	bool lost = e->store.reason == STORE_LEASE_LOST;

	store_rollback(&e->store);
	if (lost) {
		e->has_lease = false;
		wake_in(e, 0);
		return 0;
	}
	if (err->kind != ERR_RETRY) {
		release_lease(e);
		return -1;
	}
	/* The lease outlives the connection: we go on with it where nobody has taken it. */
	log_debug("%s: %s", e->name, err->msg);
	if (!e->store.state)
		forget_socket(e);
	wake_in(e, backoff_next(&e->backoff));
	return 0;
}

int executor_step(struct executor *e, int timeout_ms, struct err *err)
{
	bool was_connected = e->store.state;
	int done;

	if (!e->stopped && !wait_due(e, timeout_ms))
		return 0;
	if (e->stopped) {
		release_lease(e);
		return 1;
	}
	done = store_connect(&e->store, e->wake, err);
	if (done == 0)
		return 0;
	if (done > 0)
		done = work(e, err);
	if (!e->store.state && was_connected)
		forget_socket(e);
	if (done < 0)
		return recover(e, err);
	backoff_reset(&e->backoff);
	if (!done) {
		sleep_now(e);
		return 0;
	}
	e->sleep_ms = 0;
	wake_in(e, 0);
	return 0;
}

/* ---- parked events ---- */

/* 1: one was handled, 0: there is none. */
static int retry_one(struct executor *e, struct err *err)
{
	const struct store_event *event;
	const char *why;

	if (store_call(&e->store, err, parked_next, e->name, &e->page))
		return -1;
	if (!e->page.n)
		return 0;
	event = &e->page.events[0];
	why = e->fn(e->user, event, e->store.backend->handle(&e->store));
	if (why)
		return err_set(err, ERR_REJECT, "%s", why);
	return store_call(&e->store, err, parked_done, e->name, event->position) < 0 ? -1 : 1;
}

int executor_retry_parked(struct executor *e, int64_t *done, struct err *err)
{
	int found = 1;

	for (*done = 0; found > 0 && !e->stopped; *done += found) {
		if (store_begin(&e->store, err))
			return -1;
		found = retry_one(e, err);
		if (found < 0) {
			store_rollback(&e->store);
			return -1;
		}
		if (store_commit(&e->store, err))
			return -1;
	}
	return 0;
}

/* ---- life ---- */

int executor_init(struct executor *e, const char *url, const char *name, struct err *err)
{
	struct epoll_event event = { .events = EPOLLIN };

	*e = (struct executor){ .name = name, .socket = -1, .listens = true };
	e->lease_ms = 30000;
	e->batch = 100;
	e->max_sleep_ms = 100;
	e->backoff = (struct backoff){ 100, 10000, 0 };
	e->epoll = epoll_create1(EPOLL_CLOEXEC);
	e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	e->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->epoll < 0 || e->timer < 0 || e->wake < 0)
		return err_set(err, ERR_FAIL, "cannot make an event loop: %s", strerror(errno));
	epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->timer, &event);
	epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->wake, &event);
	wake_in(e, 0);
	if (store_init(&e->store, url, err))
		return -1;
	e->store.stop = &e->stopped;
	return 0;
}

void executor_release(struct executor *e)
{
	store_rollback(&e->store);
	release_lease(e);
	store_page_release(&e->page);
	store_release(&e->store);
	close(e->wake);
	close(e->timer);
	close(e->epoll);
}

int executor_fd(const struct executor *e)
{
	return e->epoll;
}
