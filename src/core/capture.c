#include "core/capture.h"

#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "core/checkpoint.h"
#include "core/feedback.h"
#include "core/later.h"
#include "core/loop.h"
#include "decode/decoder.h"
#include "decode/store_rows.h"

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

/* The server sends each row with a send() of its own, and a reader that wakes up for each makes
 * both sides slow. So while data flows (a read brought FLOWING_BYTES) we nap before the next read:
 * long enough to find many rows, short enough not to fill the socket's buffer, which would stop the
 * server. What flows is handed over to the outputs each FLOW_MS, because each hand-over wakes a
 * thread. Measured over TCP and over a unix socket. */
#define FLOWING_BYTES 1024
#define NAP_NS 200000
#define FLOW_MS 2

struct capture {
	const struct settings *settings;
	struct capture_callback callback;
	struct arena arena; /* source's strings */
	struct source source;
	struct session session;
	struct decoder decoder;
	struct store_rows store_rows;
	struct fanout outputs;
	struct checkpoint checkpoint;

	/* The callback counts as one more output, the last. */
	uint64_t given[MAX_OUTPUTS + 1];
	uint64_t taken[MAX_OUTPUTS + 1];
	struct later later;

	struct position last; /* the last event handed on; after a reconnect all up to it are skipped */
	uint64_t delivered; /* its LSN, also when outputs have begun anew since */
	uint64_t until;     /* 0: no end */
	int64_t events;
	bool binary;
	bool connected_once;
	bool outputs_started;
	bool done; /* limit or until is reached */
	bool draining;
	int64_t drain_end_ms;
	_Atomic int stop;
	int64_t stop_seen_ms;

	struct loop loop;
	struct feedback feedback;
	bool flowing;
	int64_t retry_ms;
	struct backoff backoff;
	enum err_kind down_logged; /* what kind of trouble has been told */
	bool was_busy;             /* another process had the slot since our last session */
	int64_t session_ms;        /* since when */
	int64_t publication_ms;
	int64_t blocked_ms; /* since when there is no room, 0: there is */

	const struct settings *next_settings;
};

/* ---- the decoder's callbacks ---- */

static int plan_relation(struct capture *c, struct relation *rel, struct err *err)
{
	if (!rel->output_wants)
		rel->output_wants = mem_array(MAX_OUTPUTS + 1, sizeof(*rel->output_wants));
	rel->output_wants[c->outputs.n] =
		c->callback.wants ? c->callback.wants(c->callback.user, rel) : 0;
	if (fanout_plan(&c->outputs, rel, rel->output_wants, &rel->wanted, err))
		return -1;
	rel->wanted |= rel->output_wants[c->outputs.n];
	return 0;
}

/* Before the catalog is asked for what this transaction may have made. */
static int see_transaction(struct capture *c, struct err *err)
{
	uint32_t xid = c->decoder.in_transaction ? c->decoder.event.xid : 0;

	return session_see(&c->session, xid, &c->stop, err);
}

static int on_relation(void *user, struct relation *rel, struct arena *arena, struct err *err)
{
	struct capture *c = user;

	if (see_transaction(c, err) || session_describe(&c->session, rel, arena, err))
		return -1;
	if (rel->store) {
		rel->wanted = store_rows_wanted(rel);
		return 0;
	}
	return plan_relation(c, rel, err);
}

static bool callback_wants(const struct capture *c, const struct event *e)
{
	if (!c->callback.event)
		return false;
	return !e->rel || e->rel->output_wants[c->outputs.n] & ACTION_BIT(e->action);
}

/* Gives the event to the callback; false when it said stop. */
static bool call_back(struct capture *c, const struct event *e)
{
	size_t i = c->outputs.n;
	enum capture_answer answer = c->callback.event(c->callback.user, e);

	if (answer == CAPTURE_STOP)
		return false;
	c->given[i]++;
	if (answer == CAPTURE_LATER ||
	    !later_empty(&c->later)) /* it counts when those before it do */
		later_put(&c->later, e->position);
	else
		c->taken[i]++;
	return true;
}

/* Hands an event to whoever wants it; returns false when the callback said stop. */
static bool hand_on(struct capture *c, const struct event *e)
{
	bool wanted = fanout_put(&c->outputs, e);

	if (e->action == ACTION_BEGIN || e->action == ACTION_COMMIT)
		return true;
	if (callback_wants(c, e)) {
		if (!call_back(c, e))
			return false;
		wanted = true;
	}
	c->last = e->position;
	c->delivered = e->position.lsn;
	c->events += wanted;
	return true;
}

static int look_up_stream(struct capture *c, const struct event *row, struct err *err)
{
	struct str number = store_rows_number(row), category, stream;
	struct arena arena = { 0 };
	int failed = see_transaction(c, err) ||
		     session_stream(&c->session, row->rel, number, &arena, &category, &stream, err);

	if (!failed)
		store_rows_stream(&c->store_rows, row->rel->store, number, category, stream);
	arena_release(&arena);
	return failed ? -1 : 0;
}

/* A row of the event store: 1 when it is a domain event that somebody wants. */
static int take_store_row(struct capture *c, const struct event *row, struct event *e, struct err *err)
{
	struct relation *rel = &c->store_rows.domain.rel;
	enum store_row what;
	bool replan;

	what = store_rows_take(&c->store_rows, row, e, &replan);
	if (what == STORE_ROW_UNKNOWN_STREAM) {
		if (look_up_stream(c, row, err))
			return -1;
		what = store_rows_take(&c->store_rows, row, e, &replan);
	}
	if (what != STORE_ROW_EVENT)
		return 0;
	if (replan && plan_relation(c, rel, err))
		return -1;
	return rel->wanted & ACTION_BIT(ACTION_EVENT) ? 1 : 0;
}

static bool limit_reached(const struct capture *c)
{
	return c->settings->limit && c->events >= c->settings->limit;
}

static int on_event(void *user, const struct event *e, struct err *err)
{
	struct capture *c = user;
	bool begin = e->action == ACTION_BEGIN, commit = e->action == ACTION_COMMIT;
	struct event domain;
	int taken;

	if (c->done)
		return 0;
	if (e->rel && e->rel->store) {
		taken = take_store_row(c, e, &domain, err);
		if (taken <= 0)
			return taken;
		e = &domain;
	}
	if (begin ? c->until && e->position.lsn >= c->until : !commit && limit_reached(c))
		c->done = true;
	else if (begin || commit ? e->position.lsn < c->last.lsn
				 : position_cmp(e->position, c->last) <= 0)
		return 0; /* handed on before the connection was lost */
	else
		c->done = !hand_on(c, e);
	return 0;
}

static int on_commit(void *user, uint64_t end_lsn, struct err *err)
{
	struct capture *c = user;

	if (c->done) /* the transaction was not handed on to its end */
		return 0;
	fanout_given(&c->outputs, c->given);
	checkpoint_push(&c->checkpoint, end_lsn, c->given);
	c->done = (c->until && end_lsn >= c->until) || limit_reached(c);
	return 0;
}

static const struct decoder_ops decoder_ops = { on_relation, on_event, on_commit };

/* ---- acknowledgement ---- */

void capture_acknowledge(struct capture *c, struct position p)
{
	c->taken[c->outputs.n] += later_take(&c->later, p);
}

static bool all_taken(struct capture *c)
{
	fanout_given(&c->outputs, c->given);
	for (size_t i = 0; i <= c->outputs.n; i++)
		if (c->taken[i] < c->given[i])
			return false;
	return true;
}

/* ---- outputs ---- */

static int start_outputs(struct capture *c, struct err *err)
{
	if (fanout_start(&c->outputs, c->settings, &c->source, c->loop.progress, err))
		return -1;
	checkpoint_init(&c->checkpoint, c->outputs.n + 1);
	c->outputs_started = true;
	return 0;
}

/* What they were given and had not taken comes again from the slot. */
static void stop_outputs(struct capture *c)
{
	if (!c->outputs_started || c->outputs.n == 0)
		return;
	fanout_close(&c->outputs);
	domain_forget(&c->store_rows.domain);
	c->outputs_started = false;
	checkpoint_release(&c->checkpoint);
	memset(c->given, 0, sizeof(c->given));
	memset(c->taken, 0, sizeof(c->taken));
	later_clear(&c->later);
	c->feedback.marking = 0;
	c->last = (struct position){ 0 };
}

/* ---- connecting ---- */

static void watch_socket(struct capture *c, bool on)
{
	if (!c->session.stream || on == c->loop.watching)
		return;
	if (on)
		loop_watch(&c->loop, stream_fd(c->session.stream));
	else
		loop_unwatch(&c->loop);
	feedback_heard(&c->feedback); /* who does not listen hears nothing */
}

static void disconnect(struct capture *c)
{
	watch_socket(c, false);
	session_close(&c->session);
	decoder_reset(&c->decoder);
	c->flowing = false;
}

/* A session that came to something ends the row of failures; one that is cut at once does not. */
static void judge_session(struct capture *c)
{
	if (c->session.stream && (c->checkpoint.confirmed > c->session.start ||
				  clock_ms() - c->session_ms > BACKOFF_MOST_MS))
		backoff_reset(&c->backoff);
}

/* What fails for good in the middle of a transaction would fail there again. */
static int fail_for_good(struct capture *c, struct err *err)
{
	const struct event *e = &c->decoder.event;

	if (err->kind != ERR_FAIL || !c->decoder.in_transaction)
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
		c->decoder.binary_refused = true;
	if (c->decoder.binary_refused) {
		log_warn("%s; asking for text values instead", err->msg);
		c->binary = c->decoder.binary_refused = false;
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

	if (!until || c->until)
		return 0;
	if (strcmp(until, "now") == 0)
		c->until = c->session.server_lsn;
	else if (!lsn_parse(str_c(until), &c->until))
		return err_set(err, ERR_CONFIG, "until: \"%s\" is neither \"now\" nor an LSN", until);
	return 0;
}

static void connected(struct capture *c)
{
	c->decoder.check_utf8 = c->session.text_is_unchecked;
	c->decoder.binary = c->binary;
	if (c->session.start > c->checkpoint.confirmed)
		c->checkpoint.confirmed = c->session.start;
	if (c->connected_once && c->down_logged)
		log_info("connected again, going on from " LSN_FMT, LSN_ARG(c->checkpoint.confirmed));
	else if (!c->connected_once)
		log_info("streaming database %.*s from slot %s at " LSN_FMT, STR_ARG(c->source.db),
			 c->settings->slot, LSN_ARG(c->session.start));
	c->connected_once = true;
	c->down_logged = ERR_NONE;
	c->was_busy = false;
	feedback_begin(&c->feedback);
	c->session_ms = c->publication_ms = clock_ms();
	watch_socket(c, true);
}

/* What an address names should be known to be there before an event needs it. */
static int check_table(void *user, const struct relation *rel, struct err *err)
{
	struct capture *c = user;
	uint16_t wants[MAX_OUTPUTS], any;

	return fanout_plan(&c->outputs, rel, wants, &any, err);
}

static int check_addresses(struct capture *c, struct err *err)
{
	if (c->connected_once || !fanout_names_columns(&c->outputs))
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
				     .outputs = &c->outputs,
				     .was_busy = c->was_busy,
				     .binary = c->binary,
				     .confirmed = c->checkpoint.confirmed,
				     .delivered = c->delivered,
				     .stop = &c->stop,
				     .wake = c->loop.progress };
	int open = c->session.sql ? 1 : session_open(&c->session, &past, err);

	if (open < 0)
		return lost_session(c, err);
	if (!open)
		return 0;
	if (!c->outputs_started && start_outputs(c, err))
		return -1;
	if (!c->outputs.opened)
		return 0;
	if (session_start(&c->session, &past, err) || check_addresses(c, err))
		return lost_session(c, err);
	if (set_until(c, err))
		return -1;
	connected(c);
	return 0;
}

struct replan {
	struct capture *c;
	struct err *err;
	int failed;
};

static void replan(void *user, struct relation *rel)
{
	struct replan *r = user;

	if (!r->failed && !rel->store)
		r->failed = plan_relation(r->c, rel, r->err);
}

/* Takes the new settings once everything under the old ones is taken. */
static int swap_settings(struct capture *c, struct err *err)
{
	struct replan plan = { c, err, 0 };
	struct position last = c->last;

	if (!all_taken(c) || c->decoder.in_transaction)
		return 0;
	stop_outputs(c);
	c->last = last;
	c->settings = c->next_settings;
	c->next_settings = NULL;
	if (start_outputs(c, err))
		return -1;
	decoder_each_relation(&c->decoder, replan, &plan);
	if (plan.failed)
		return -1;
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
	if (!c->decoder.in_transaction && !c->done) {
		checkpoint_push(&c->checkpoint, m->end, c->given);
		checkpoint_advance(&c->checkpoint, c->taken);
	}
	if (c->until && m->end >= c->until && !c->decoder.in_transaction)
		c->done = true;
	return m->reply ? feedback_report(&c->feedback, true, err) : 0;
}

/* Handles whole messages until there are none, or no room, or the end. */
static int handle_messages(struct capture *c, struct err *err)
{
	struct stream_message m;

	while (!c->done && fanout_has_room(&c->outputs)) {
		if ((c->stop || c->next_settings) && !c->decoder.in_transaction)
			return 0;
		if (stream_next(c->session.stream, &m, err))
			return -1;
		if (m.kind == STREAM_NOTHING)
			return 0;
		if (m.kind == STREAM_END)
			return err_set(err, ERR_RETRY, "the server ended the stream");
		if (m.kind == STREAM_KEEPALIVE
			    ? on_keepalive(c, &m, err)
			    : decoder_message(&c->decoder, m.start, m.time, m.payload, err))
			return -1;
	}
	return 0;
}

/* Reads once; returns the number of bytes. */
static ssize_t read_once(struct capture *c, struct err *err)
{
	ssize_t n;

	if (c->flowing)
		nanosleep(&(struct timespec){ .tv_nsec = NAP_NS }, NULL);
	n = stream_fill(c->session.stream, err);
	if (n > 0) {
		c->flowing = n >= FLOWING_BYTES;
		feedback_heard(&c->feedback);
	}
	return n;
}

static int receive(struct capture *c, struct err *err)
{
	int64_t end = clock_ms() + FLOW_MS;
	ssize_t n;

	do {
		n = read_once(c, err);
		if (n < 0 || handle_messages(c, err))
			return -1;
	} while (n >= FLOWING_BYTES && !c->done && clock_ms() < end && fanout_has_room(&c->outputs));
	return 0;
}

static int tick(struct capture *c, struct err *err)
{
	int64_t now = clock_ms();
	int seconds;

	if (c->loop.watching && feedback_silent(&c->feedback, &seconds))
		return err_set(err, ERR_RETRY, "the server has been silent for %d s", seconds);
	if (now - c->publication_ms >= PUBLICATION_CHECK_MS) {
		c->publication_ms = now;
		if (session_check_publication(&c->session, c->settings, err))
			return -1;
	}
	c->feedback.seeking = c->until && !c->done;
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
		fanout_say_full(&c->outputs);
	}
}

/* With a session: receive, hand over, report. */
static int serve(struct capture *c, bool readable, struct err *err)
{
	bool room = fanout_has_room(&c->outputs);

	watch_socket(c, room);
	watch_blocked(c, room);
	if (room && handle_messages(c, err))
		return -1;
	if (room && readable && !c->done && receive(c, err))
		return -1;
	fanout_flush(&c->outputs, false);
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
	fanout_drain(&c->outputs);
}

/* Keeps the connection alive until the outputs have taken, and remembered, what they were given. */
static int drain(struct capture *c, struct err *err)
{
	bool late, taken = all_taken(c);

	/* a commit that has come since may have been waited for by nobody but its events */
	checkpoint_advance(&c->checkpoint, c->taken);
	if (c->stop && !c->drain_end_ms)
		c->drain_end_ms = clock_ms() + STOP_DRAIN_MS;
	late = c->stop && clock_ms() > c->drain_end_ms;
	c->feedback.seeking = false;
	feedback_mark(&c->feedback, taken);
	if (c->session.stream && feedback_report(&c->feedback, false, err))
		disconnect(c); /* what is not confirmed comes again */
	if (!late && (!taken || (c->session.stream &&
				 feedback_tellable(&c->feedback) < c->checkpoint.confirmed)))
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
	return c->done || (c->stop && (!c->decoder.in_transaction ||
				       clock_ms() - c->stop_seen_ms > STOP_TRANSACTION_MS));
}

int capture_step(struct capture *c, int timeout_ms, struct err *err)
{
	bool pending = c->session.stream && c->loop.watching && stream_pending(c->session.stream);
	bool readable = loop_wait(&c->loop, pending ? 0 : timeout_ms) || pending;

	if (fanout_look(&c->outputs, c->taken, err))
		return -1;
	checkpoint_advance(&c->checkpoint, c->taken);
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
	c->feedback = (struct feedback){ .checkpoint = &c->checkpoint,
					 .outputs = &c->outputs,
					 .session = &c->session,
					 .source = &c->source };
	c->backoff = (struct backoff){ BACKOFF_FIRST_MS, BACKOFF_MOST_MS, 0 };
	if (callback)
		c->callback = *callback;
	decoder_init(&c->decoder, &c->source, &decoder_ops, c);
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
	if (!fanout_close(&c->outputs))
		c->loop.progress = -1; /* still written to */
	decoder_release(&c->decoder);
	store_rows_release(&c->store_rows);
	checkpoint_release(&c->checkpoint);
	arena_release(&c->arena);
	later_release(&c->later);
	loop_close(&c->loop);
	free(c);
}
