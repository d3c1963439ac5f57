#include "core/capture.h"

#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/feedback.h"
#include "core/intake.h"
#include "core/loop.h"
#include "core/nap.h"

#include <inttypes.h>
#include <stdlib.h>

/* Everything with a time of its own is looked at this often. */
#define TICK_MS 200
#define PUBLICATION_CHECK_MS 30000
/* After so long without room in an output the log says who is waited for. */
#define SAY_WAITING_MS 5000
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MOST_MS 15000
/* After capture_stop: to the end of the transaction in flight, and for the outputs to take. An end
 * that was set beforehand (until, limit) waits for these as long as it takes. */
#define STOP_TRANSACTION_MS 3000
#define STOP_DRAIN_MS 8000

/* What flows is handed over to the outputs each FLOW_MS, because each hand-over wakes a thread. */
#define FLOWING_BYTES 1024
#define MORE_BYTES (32 << 10) /* a read of so many has not come to the end of what is there */
#define FLOW_MS 2

struct capture {
	const struct settings *settings;
	struct arena arena; /* source's strings */
	struct source source;
	struct session session;
	struct intake in;

	bool binary;
	bool connected_once;
	bool draining;
	int64_t drain_end_ms;
	_Atomic int stop;
	int64_t stop_seen_ms;

	struct loop loop;
	struct feedback feedback;
	ssize_t got; /* bytes of the last read */
	struct nap nap;
	int64_t nap_us; /* before the next read */
	int64_t retry_ms;
	struct backoff backoff;
	enum err_kind down_logged; /* what kind of trouble has been told */
	bool was_busy;             /* another process had the slot since our last session */
	int64_t session_ms;        /* since when */
	int64_t publication_ms;    /* when it was last looked at; 0: not yet */
	struct strbuf lacks;       /* what was said of it */
	int64_t blocked_ms;        /* since when there is no room, 0: there is */

	const struct settings *next_settings;
};

/* ---- outputs ---- */

void capture_acknowledge(struct capture *c, struct position p)
{
	intake_acknowledge(&c->in, p);
}

static int start_outputs(struct capture *c, struct err *err)
{
	return intake_start_outputs(&c->in, c->settings, c->loop.progress, err);
}

static void stop_outputs(struct capture *c)
{
	if (!c->in.outputs_started || c->in.outputs.n == 0)
		return;
	intake_stop_outputs(&c->in);
	c->feedback.marking = 0;
}

/* ---- connecting ---- */

static void watch_socket(struct capture *c, bool on)
{
	if (!c->session.sql || on == c->loop.watching)
		return;
	if (on)
		loop_watch(&c->loop, session_fd(&c->session));
	else
		loop_unwatch(&c->loop);
	feedback_heard(&c->feedback); /* who does not listen hears nothing */
}

static void disconnect(struct capture *c)
{
	watch_socket(c, false);
	session_close(&c->session);
	decoder_reset(&c->in.decoder);
	c->got = 0;
	c->nap = (struct nap){ 0 };
	c->nap_us = 0;
}

/* A session that came to something ends the row of failures; one that is cut at once does not. */
static void judge_session(struct capture *c)
{
	if (c->session.stream && (c->in.checkpoint.confirmed > c->session.start ||
				  clock_ms() - c->session_ms > BACKOFF_MOST_MS))
		backoff_reset(&c->backoff);
}

/* What fails for good in the middle of a transaction would fail there again. */
static int fail_for_good(struct capture *c, struct err *err)
{
	const struct event *e = &c->in.decoder.event;

	if (err->kind != ERR_FAIL || !c->in.decoder.in_transaction)
		return -1;
	return err_add(err,
		       "transaction %" PRIu32 ", committed at " LSN_FMT
		       " (to give up what is left of it, go on with --from " LSN_FMT ")",
		       e->xid, LSN_ARG(e->position.lsn), LSN_ARG(e->position.lsn + 1));
}

/* After a failure: whether it is worth another try. */
static int lost_session(struct capture *c, struct err *err)
{
	bool busy = err->kind == ERR_BUSY && c->settings->wait;

	c->was_busy |= busy;
	if (c->binary && strstr(err->msg, STREAM_NO_BINARY))
		c->in.decoder.binary_refused = true;
	if (c->in.decoder.binary_refused) {
		log_warn("%s; asking for text values instead", err->msg);
		c->binary = c->in.decoder.binary_refused = false;
		backoff_reset(&c->backoff);
	} else if (err->kind != ERR_RETRY && !busy) {
		return fail_for_good(c, err);
	} else if (c->down_logged != err->kind && !c->stop) {
		log_warn("%s; %s", err->msg, busy ? "waiting as a standby" : "trying again");
		c->down_logged = err->kind;
	}
	judge_session(c);
	disconnect(c);
	if (busy)
		stop_outputs(c); /* what they hold is for who has the slot to say */
	c->retry_ms = clock_ms() + backoff_next(&c->backoff);
	return 0;
}

static int set_until(struct capture *c, struct err *err)
{
	const char *until = c->settings->until;

	if (!until || c->in.until)
		return 0;
	if (strcmp(until, "now") == 0)
		c->in.until = c->session.server_lsn;
	else if (!lsn_parse(str_c(until), &c->in.until))
		return err_set(err, ERR_CONFIG, "until: \"%s\" is neither \"now\" nor an LSN", until);
	return 0;
}

static void connected(struct capture *c)
{
	c->in.decoder.check_utf8 = c->session.text_is_unchecked;
	c->in.decoder.binary = c->binary;
	if (c->session.start > c->in.checkpoint.confirmed)
		c->in.checkpoint.confirmed = c->session.start;
	if (c->connected_once && c->down_logged)
		log_info("connected again, going on from " LSN_FMT,
			 LSN_ARG(c->in.checkpoint.confirmed));
	else if (!c->connected_once)
		log_info("streaming database %.*s from slot %s at " LSN_FMT, STR_ARG(c->source.db),
			 c->settings->slot, LSN_ARG(c->session.start));
	c->connected_once = true;
	c->down_logged = ERR_NONE;
	c->was_busy = false;
	feedback_begin(&c->feedback);
	c->session_ms = clock_ms();
	c->publication_ms = 0;
}

/* What an address names should be known to be there before an event needs it. */
static int check_table(void *user, const struct relation *rel, struct err *err)
{
	struct capture *c = user;
	uint16_t wants[MAX_OUTPUTS], any;

	return fanout_plan(&c->in.outputs, rel, wants, &any, err);
}

static int check_addresses(struct capture *c, struct err *err)
{
	if (c->connected_once || !fanout_names_columns(&c->in.outputs))
		return 0;
	return session_tables(&c->session, c->settings, check_table, c, err);
}

/* Goes as far towards a stream as it can now: a session, the outputs, and when these are open, the
 * slot. Nothing waits here for the network or the outputs: they wake us up. */
static int connect_session(struct capture *c, struct err *err)
{
	struct session_past past = { .settings = c->settings,
				     .source = &c->source,
				     .arena = &c->arena,
				     .connected = c->connected_once,
				     .outputs = &c->in.outputs,
				     .was_busy = c->was_busy,
				     .binary = c->binary,
				     .confirmed = c->in.checkpoint.confirmed,
				     .delivered = c->in.delivered,
				     .stop = &c->stop,
				     .wake = c->loop.progress };
	int open = c->session.sql ? 1 : session_open(&c->session, &past, err), started;

	if (open < 0)
		return lost_session(c, err);
	if (!open)
		return 0;
	if (!c->in.outputs_started && start_outputs(c, err))
		return -1;
	if (!c->in.outputs.opened)
		return 0;
	started = session_start(&c->session, &past, err);
	if (started < 0 || (started && check_addresses(c, err)))
		return lost_session(c, err);
	watch_socket(c, true);
	if (!started)
		return 0;
	if (set_until(c, err))
		return -1;
	connected(c);
	return 0;
}

/* Takes the new settings once everything under the old ones is taken. */
static int swap_settings(struct capture *c, struct err *err)
{
	struct position last = c->in.last;

	if (!intake_all_taken(&c->in) || c->in.decoder.in_transaction)
		return 0;
	stop_outputs(c);
	c->in.last = last;
	c->settings = c->next_settings;
	c->next_settings = NULL;
	if (start_outputs(c, err))
		return -1;
	if (intake_replan(&c->in, err))
		return -1;
	c->publication_ms = 0;
	log_info("new settings are in force");
	return 0;
}

int capture_reload(struct capture *c, const struct settings *s, struct err *err)
{
	if (fanout_check(s, err) || settings_check_reload(c->settings, s, err))
		return -1;
	c->next_settings = s;
	return 0;
}

bool capture_reloading(const struct capture *c)
{
	return c->next_settings != NULL;
}

/* ---- one step ---- */

static int on_keepalive(struct capture *c, const struct stream_message *m, struct err *err)
{
	if (!c->in.decoder.in_transaction && !c->in.done) {
		checkpoint_push(&c->in.checkpoint, m->end, c->in.given);
		checkpoint_advance(&c->in.checkpoint, c->in.taken);
	}
	if (c->in.until && m->end >= c->in.until && !c->in.decoder.in_transaction)
		c->in.done = true;
	return m->reply ? feedback_report(&c->feedback, true, err) : 0;
}

/* Handles whole messages until there are none, or no room, or the end. */
static int handle_messages(struct capture *c, struct err *err)
{
	struct stream_message m;

	while (!c->in.done && fanout_has_room(&c->in.outputs)) {
		if ((c->stop || c->next_settings) && !c->in.decoder.in_transaction)
			return 0;
		if (stream_next(c->session.stream, &m, err))
			return -1;
		if (m.kind == STREAM_NOTHING)
			return 0;
		if (m.kind == STREAM_END)
			return err_set(err, ERR_RETRY, "the server ended the stream");
		if (m.kind == STREAM_KEEPALIVE
			    ? on_keepalive(c, &m, err)
			    : decoder_message(&c->in.decoder, m.start, m.time, m.payload, err))
			return -1;
		if (c->in.decoder.in_transaction)
			nap_heard(&c->nap, m.time, c->in.decoder.event.time);
	}
	return 0;
}

/* Whether data flows and the last read has come to the end of what is there. */
static bool read_up(const struct capture *c)
{
	return c->got >= FLOWING_BYTES && c->got < MORE_BYTES;
}

static int receive(struct capture *c, struct err *err)
{
	int64_t end = clock_ms() + FLOW_MS;

	do {
		if (c->nap_us)
			nanosleep(&(struct timespec){ .tv_nsec = (long)c->nap_us * 1000 }, NULL);
		c->got = stream_fill(c->session.stream, err);
		if (c->got < 0 || handle_messages(c, err))
			return -1;
		if (c->got)
			feedback_heard(&c->feedback);
		c->nap_us = read_up(c) ? nap_next(&c->nap, stream_nap_us(c->session.stream)) : 0;
	} while (c->got >= FLOWING_BYTES && !c->in.done && clock_ms() + c->nap_us / 1000 < end &&
		 fanout_has_room(&c->in.outputs));
	return 0;
}

/* Says what the publication lacks when that is news. */
static int look_at_publication(struct capture *c, struct err *err)
{
	struct strbuf lacks = { 0 };
	int failed = session_check_publication(&c->session, c->settings, &lacks, err);

	if (!failed && lacks.n && !str_eq(strbuf_view(&lacks), strbuf_view(&c->lacks)))
		log_warn("%.*s", STR_ARG(strbuf_view(&lacks)));
	if (failed) {
		strbuf_release(&lacks);
		return -1;
	}
	strbuf_release(&c->lacks);
	c->lacks = lacks;
	return 0;
}

static int tick(struct capture *c, struct err *err)
{
	int64_t now = clock_ms();
	int seconds;

	if (c->loop.watching && feedback_silent(&c->feedback, &seconds))
		return err_set(err, ERR_RETRY, "the server has been silent for %d s", seconds);
	if (!c->publication_ms || now - c->publication_ms >= PUBLICATION_CHECK_MS) {
		c->publication_ms = now;
		if (look_at_publication(c, err))
			return -1;
	}
	c->feedback.seeking = c->in.until && !c->in.done;
	return feedback_report(&c->feedback, false, err);
}

/* Says once who holds the others up. */
static void watch_blocked(struct capture *c, bool room)
{
	int64_t now = clock_ms();

	if (room) {
		c->blocked_ms = 0;
	} else if (c->blocked_ms == 0) {
		c->blocked_ms = now;
	} else if (c->blocked_ms > 0 && now - c->blocked_ms > SAY_WAITING_MS) {
		c->blocked_ms = -1;
		fanout_say_full(&c->in.outputs);
	}
}

/* With a session: receive, hand over, report. */
static int serve(struct capture *c, bool readable, struct err *err)
{
	bool room = fanout_has_room(&c->in.outputs);

	watch_socket(c, room);
	watch_blocked(c, room);
	if (room && handle_messages(c, err))
		return -1;
	if (room && readable && !c->in.done && receive(c, err))
		return -1;
	fanout_flush(&c->in.outputs, false);
	if (c->next_settings && swap_settings(c, err))
		return -1;
	if (stream_flush(c->session.stream, err))
		return -1;
	return tick(c, err);
}

static void begin_drain(struct capture *c)
{
	c->draining = true;
	watch_socket(c, false);
	fanout_drain(&c->in.outputs);
}

/* Keeps the connection alive until the outputs have taken, and remembered, what they were given. */
static int drain(struct capture *c, struct err *err)
{
	bool late, taken = intake_all_taken(&c->in);

	/* a commit that has come since may have been waited for by nobody but its events */
	checkpoint_advance(&c->in.checkpoint, c->in.taken);
	if (c->stop && !c->drain_end_ms)
		c->drain_end_ms = clock_ms() + STOP_DRAIN_MS;
	late = c->stop && clock_ms() > c->drain_end_ms;
	c->feedback.seeking = false;
	feedback_mark(&c->feedback, taken);
	if (c->session.stream && feedback_report(&c->feedback, false, err))
		disconnect(c); /* what is not confirmed comes again */
	if (!late && (!taken || (c->session.stream &&
				 feedback_tellable(&c->feedback) < c->in.checkpoint.confirmed)))
		return 0;
	if (!taken)
		log_warn("some events were not taken in time; they stay in the slot");
	if (c->session.stream && feedback_report(&c->feedback, true, err) == 0)
		stream_finish(c->session.stream, 2000);
	disconnect(c);
	return 1;
}

/* Whether it is time to begin the end. */
static bool must_end(struct capture *c)
{
	if (c->stop && !c->stop_seen_ms)
		c->stop_seen_ms = clock_ms();
	return c->in.done || (c->stop && (!c->in.decoder.in_transaction ||
					  clock_ms() - c->stop_seen_ms > STOP_TRANSACTION_MS));
}

int capture_step(struct capture *c, int timeout_ms, struct err *err)
{
	bool pending = c->session.stream && c->loop.watching && stream_pending(c->session.stream);
	bool readable = loop_wait(&c->loop, pending ? 0 : timeout_ms) || pending;

	if (fanout_look(&c->in.outputs, c->in.taken, err))
		return -1;
	checkpoint_advance(&c->in.checkpoint, c->in.taken);
	if (c->draining)
		return drain(c, err);
	if (c->session.stream) {
		if (serve(c, readable, err) && lost_session(c, err))
			return -1;
	} else if (!c->stop && clock_ms() >= c->retry_ms) {
		if (connect_session(c, err))
			return -1;
	}
	if (must_end(c)) {
		begin_drain(c);
		return drain(c, err);
	}
	return 0;
}

int capture_fd(const struct capture *c)
{
	return c->loop.epoll;
}

void capture_stop(struct capture *c)
{
	c->stop = 1;
	loop_wake(&c->loop);
}

/* ---- life ---- */

struct capture *capture_open(const struct settings *s, const struct capture_callback *callback,
			     struct err *err)
{
	struct capture *c = mem_alloc(sizeof(*c));

	c->settings = s;
	c->binary = s->binary;
	c->loop = LOOP_CLOSED;
	c->feedback = (struct feedback){ .checkpoint = &c->in.checkpoint,
					 .outputs = &c->in.outputs,
					 .session = &c->session,
					 .source = &c->source };
	c->backoff = (struct backoff){ BACKOFF_FIRST_MS, BACKOFF_MOST_MS, 0 };
	c->in = (struct intake){
		.source = &c->source, .session = &c->session, .stop = &c->stop, .limit = s->limit
	};
	if (callback)
		c->in.callback = *callback;
	intake_init(&c->in, &c->source);
	if (loop_open(&c->loop, TICK_MS, err) || fanout_check(s, err)) {
		capture_close(c);
		return NULL;
	}
	return c;
}

void capture_close(struct capture *c)
{
	if (!c)
		return;
	disconnect(c);
	if (!fanout_close(&c->in.outputs))
		c->loop.progress = -1; /* still written to */
	intake_release(&c->in);
	arena_release(&c->arena);
	strbuf_release(&c->lacks);
	loop_close(&c->loop);
	free(c);
}
