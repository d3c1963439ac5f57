#include "core/feedback.h"

#include "base/clock.h"

/* The slot is told of progress at most this often, and without progress this often. */
#define STATUS_MOVED_MS 200
#define STATUS_IDLE_MS 10000
/* Outputs that remember what the slot is told are asked to do so at most this often. */
#define MARK_MS 1000
/* A server that is silent for half of its wal_sender_timeout is asked for a sign of life; silent
 * for twice that time, it is gone. This long where it has none, and at least. */
#define SILENCE_MS 60000
#define SILENCE_LEAST_MS 1000

void feedback_begin(struct feedback *f)
{
	f->told = f->marking = 0;
	f->status_ms = 0;
	feedback_heard(f);
}

void feedback_heard(struct feedback *f)
{
	f->heard_ms = clock_ms();
	f->pinged = false;
}

static int64_t sender_timeout(const struct feedback *f)
{
	int64_t ms = f->session->sender_timeout_ms ? f->session->sender_timeout_ms : SILENCE_MS;

	return ms > SILENCE_LEAST_MS ? ms : SILENCE_LEAST_MS;
}

bool feedback_silent(const struct feedback *f, int *seconds)
{
	*seconds = (int)(2 * sender_timeout(f) / 1000);
	return f->pinged && clock_ms() - f->heard_ms > 2 * sender_timeout(f);
}

uint64_t feedback_tellable(const struct feedback *f)
{
	uint64_t marked = fanout_marked(f->outputs);
	uint64_t lsn = marked < f->checkpoint->confirmed ? marked : f->checkpoint->confirmed;
	uint64_t least = f->told > f->session->confirmed ? f->told : f->session->confirmed;

	return lsn > least ? lsn : least;
}

void feedback_mark(struct feedback *f, bool now)
{
	int64_t ms = clock_ms();

	if (f->checkpoint->confirmed == f->marking || (!now && ms - f->mark_ms < MARK_MS))
		return;
	f->marking = f->checkpoint->confirmed;
	f->mark_ms = ms;
	fanout_mark(f->outputs,
		    &(struct mark){ f->marking, f->source->system_id, f->source->timeline });
}

/* How long after a status the next one is due. */
static int64_t status_after(const struct feedback *f)
{
	int64_t quarter = f->session->sender_timeout_ms / 4;

	if (f->seeking || f->told != feedback_tellable(f))
		return STATUS_MOVED_MS;
	return quarter && quarter < STATUS_IDLE_MS ? quarter : STATUS_IDLE_MS;
}

int feedback_report(struct feedback *f, bool now, struct err *err)
{
	int64_t ms = clock_ms();
	bool ping;

	feedback_mark(f, now);
	if (!now && ms - f->status_ms < status_after(f))
		return 0;
	ping = f->seeking || ms - f->heard_ms >= sender_timeout(f) / 2;
	f->pinged |= ping;
	f->status_ms = ms;
	f->told = feedback_tellable(f);
	return stream_status(f->session->stream, f->told, ping, err);
}
