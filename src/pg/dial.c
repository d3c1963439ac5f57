#include "pg/dial.h"

#include "base/left.h"
#include "base/mem.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* A process that ends while a thread is in the middle of TLS may crash, so one that gets on is let
 * finish; what takes longer waits for the network and does no harm. */
#define LEAVE_MS 500

/* Who comes last frees it: the thread when it was LEFT, otherwise the owner. */
enum dial_state { DIALLING, DONE, LEFT };

struct dial {
	pthread_t thread;
	_Atomic enum dial_state state;
	int wake;
	char *conninfo;
	bool both;
	PGconn *sql, *repl;
	struct err err; /* why one of them is NULL */
};

static void dial_free(struct dial *d)
{
	PQfinish(d->sql);
	PQfinish(d->repl);
	if (d->wake >= 0)
		close(d->wake);
	free(d->conninfo);
	free(d);
}

/* Puts the dial into the state unless the other side was first. */
static bool enter(struct dial *d, enum dial_state state)
{
	enum dial_state dialling = DIALLING;

	return atomic_compare_exchange_strong(&d->state, &dialling, state);
}

static void *run(void *arg)
{
	struct dial *d = arg;
	uint64_t one = 1;

	d->sql = conn_open(d->conninfo, CONN_SQL, &d->err);
	if (d->sql && d->both && d->state == DIALLING)
		d->repl = conn_open(d->conninfo, CONN_REPLICATION, &d->err);
	if (!enter(d, DONE))
		dial_free(d);
	else if (write(d->wake, &one, sizeof(one)) < 0) {
		/* the owner looks now and then */
	}
	return NULL;
}

static struct dial *start(const char *conninfo, bool both, int wake, struct err *err)
{
	struct dial *d = mem_alloc(sizeof(*d));
	sigset_t all, before;
	int failed;

	d->conninfo = mem_strdup(conninfo ? conninfo : "");
	d->both = both;
	d->wake = fcntl(wake, F_DUPFD_CLOEXEC, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
	failed = pthread_create(&d->thread, NULL, run, d);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!failed)
		return d;
	dial_free(d);
	err_set(err, ERR_RETRY, "cannot start a thread to connect");
	return NULL;
}

struct dial *dial_start(const char *conninfo, int wake, struct err *err)
{
	return start(conninfo, true, wake, err);
}

struct dial *dial_start_sql(const char *conninfo, int wake, struct err *err)
{
	return start(conninfo, false, wake, err);
}

int dial_take(struct dial **dial, PGconn **sql, PGconn **repl, struct err *err)
{
	struct dial *d = *dial;
	int there;

	if (d->state != DONE)
		return 0;
	pthread_join(d->thread, NULL);
	there = (d->both ? d->repl : d->sql) ? 1 : -1;
	if (there > 0) {
		*sql = d->sql;
		if (d->both)
			*repl = d->repl;
		d->sql = d->repl = NULL;
	} else {
		*err = d->err;
	}
	dial_free(d);
	*dial = NULL;
	return there;
}

void dial_leave(struct dial *d)
{
	struct timespec end;

	if (!d)
		return;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_nsec += LEAVE_MS * 1000000L;
	end.tv_sec += end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	if (pthread_timedjoin_np(d->thread, NULL, &end) == 0) {
		dial_free(d);
	} else if (enter(d, LEFT)) {
		left_note();
		pthread_detach(d->thread);
	} else {
		pthread_join(d->thread, NULL);
		dial_free(d);
	}
}
