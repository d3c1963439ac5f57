#include "core/subscription.h"

#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/time.h"
#include "core/checkpoint.h"
#include "core/fanout.h"
#include "core/feed.h"
#include "core/loop.h"
#include "core/pace.h"
#include "event/domain.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#define TICK_MS 200
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MOST_MS 15000
/* What is taken is acknowledged with the next look, or when it is older than this. */
#define ACK_MS 50
/* A page has so many events at most, and so many that it stays in these bytes. */
#define PAGE_FIRST 100
#define PAGE_MOST 4000
#define PAGE_BYTES (4 << 20)
/* After so long others of several partitions have their turn. */
#define TURN_MS 5000
/* How long the other outputs may take what comes before a refused event. */
#define OTHERS_MS 5000
/* After subscription_stop, for the outputs to take what they were given. */
#define STOP_DRAIN_MS 8000

struct subscription {
	const struct settings *settings;
	struct loop loop;
	struct feed feed;
	struct source source;
	struct arena arena;  /* the source's strings */
	struct strbuf slot;  /* NAME:PARTITION, where a stream has its slot's name */
	struct strbuf owner; /* this process, for people */

	bool claimed;
	struct store_lease lease;
	uint64_t acked;               /* the checkpoint as the store has it */
	int64_t claimed_ms, alive_ms; /* since when; the lease's last sign of life */

	struct fanout outputs;
	bool outputs_started, outputs_checked;
	bool stuck; /* a thread has not ended, and may still write to loop.progress */
	struct checkpoint checkpoint;
	uint64_t given[MAX_OUTPUTS], taken[MAX_OUTPUTS];
	struct domain domain;
	struct strbuf numbers; /* of the event at hand, in text */

	int page_most;
	uint64_t handed; /* position of the last event handed on */
	uint64_t passed; /* likewise of one that no output wanted */
	int64_t events;

	struct pace pace;
	int64_t retry_ms;
	struct backoff backoff;
	bool down_logged, done, draining;
	int64_t drain_end_ms, refused_ms;
	_Atomic int stop;
};

/* ---- outputs ---- */

/* NAME:PARTITION, without the slash that an origin has between its parts. Parked events are an
 * origin of their own each time: they may be older than what a destination has of the last time. */
static void name_source(struct subscription *s)
{
	const char *name = s->settings->subscription ? s->settings->subscription : "follow";

	s->slot.n = 0;
	for (const char *p = name; *p; p++)
		strbuf_printf(&s->slot, *p == '/' || *p == '%' ? "%%%02X" : "%c", *p);
	if (s->settings->parked)
		strbuf_printf(&s->slot, ":parked:%" PRId64, clock_wall_us());
	else
		strbuf_printf(&s->slot, ":%d", s->lease.partition);
	s->source.slot = strbuf_view(&s->slot);
}

static int start_outputs(struct subscription *s, struct err *err)
{
	name_source(s);
	if (fanout_start(&s->outputs, s->settings, &s->source, s->loop.progress, err))
		return -1;
	s->outputs_started = true;
	s->outputs_checked = false;
	checkpoint_init(&s->checkpoint, s->outputs.n);
	return 0;
}

/* What they were given and had not taken comes again from the store. */
static void stop_outputs(struct subscription *s)
{
	if (s->outputs_started)
		s->stuck |= !fanout_close(&s->outputs);
	s->outputs_started = false;
	checkpoint_release(&s->checkpoint);
	s->checkpoint.confirmed = 0;
	memset(s->given, 0, sizeof(s->given));
	memset(s->taken, 0, sizeof(s->taken));
	domain_forget(&s->domain);
	feed_drop_page(&s->feed);
}

/* What an output holds must be of this store: a file or stream that holds other events would be
 * taken to hold these already. */
static int check_outputs(struct subscription *s, struct err *err)
{
	int64_t last;

	s->outputs_checked = true;
	if (feed_last(&s->feed, &last, err))
		return -1;
	for (size_t i = 0; i < s->outputs.n; i++) {
		const struct sink *sink = s->outputs.v[i].sink;

		if (s->settings->parked && sink->driver->one_order)
			return err_set(err, ERR_CONFIG,
				       "output %s: %s keeps one order of events, and those that "
				       "were parked come late: send them to another place",
				       sink->label, sink->driver->name);
		if (s->lease.partitions > 1 && sink->driver->one_order)
			return err_set(err, ERR_CONFIG,
				       "output %s: %s keeps one order of events, and the "
				       "subscription has several partitions: give it one",
				       sink->label, sink->driver->name);
		if ((sink->held.lsn > (uint64_t)last && sink->held.lsn > s->acked) ||
		    sink->held.ordinal || sink->mark.lsn)
			return err_set(err, ERR_LOST,
				       "output %s holds events that are not of this store's feed, "
				       "which ends at %" PRId64 "; give it another place",
				       sink->label, last);
	}
	return 0;
}

static bool all_taken(const struct subscription *s)
{
	return checkpoint_empty(&s->checkpoint);
}

/* The most messages that an output has not taken. */
static uint64_t in_flight(const struct subscription *s)
{
	uint64_t most = 0;

	for (size_t i = 0; i < s->outputs.n; i++)
		if (s->given[i] - s->taken[i] > most)
			most = s->given[i] - s->taken[i];
	return most;
}

/* ---- the claim ---- */

static void forget_claim(struct subscription *s)
{
	stop_outputs(s);
	s->claimed = false;
	s->pace.next = 0;
}

static int begin_look(struct subscription *s, struct err *err)
{
	return pace_look(&s->pace, clock_ms()) ? feed_sleep(&s->feed, &s->pace.sleep, err) : 0;
}

static int take_claim(struct subscription *s, const struct store_lease *lease, struct err *err)
{
	s->lease = *lease;
	s->claimed = true;
	s->claimed_ms = s->alive_ms = s->pace.busy = clock_ms();
	s->acked = s->handed = s->passed = s->checkpoint.confirmed = (uint64_t)lease->position;
	s->page_most = PAGE_FIRST;
	pace_wake(&s->pace);
	return start_outputs(s, err);
}

static int look_for_claim(struct subscription *s, struct err *err)
{
	struct store_lease lease;
	int n;

	if (clock_ms() < s->pace.next)
		return 0;
	if (begin_look(s, err))
		return -1;
	n = feed_claim(&s->feed, &lease, err);
	if (n > 0)
		return take_claim(s, &lease, err);
	if (n == 0)
		pace_nothing(&s->pace, clock_ms());
	return n;
}

/* Ends the outputs too: what they hold is for who has the partition to say; files are locked. */
static int give_back(struct subscription *s, struct err *err)
{
	if (!s->claimed || !s->lease.name)
		return 0;
	forget_claim(s);
	return feed_give_back(&s->feed, &s->lease, err);
}

/* Of several partitions another one, if it has something to do. This one is not among those that
 * can be claimed. */
static int change_claim(struct subscription *s, struct err *err)
{
	struct store_lease lease;
	int n;

	s->claimed_ms = clock_ms();
	n = feed_claim(&s->feed, &lease, err);
	if (n <= 0)
		return n;
	if (give_back(s, err))
		return -1;
	return take_claim(s, &lease, err);
}

/* The position up to which all is taken, where the store does not know that yet; -1: it does. */
static int64_t to_acknowledge(const struct subscription *s)
{
	uint64_t done = s->checkpoint.confirmed;

	if (all_taken(s) && s->passed > done)
		done = s->passed;
	return done > s->acked ? (int64_t)done : -1;
}

static void acknowledged(struct subscription *s, int64_t done)
{
	if (done < 0)
		return;
	s->acked = (uint64_t)done;
	s->alive_ms = clock_ms();
}

static int acknowledge(struct subscription *s, struct err *err)
{
	int64_t done = to_acknowledge(s);

	if (done >= 0 && feed_ack(&s->feed, &s->lease, done, err))
		return -1;
	acknowledged(s, done);
	return 0;
}

static int keep_lease(struct subscription *s, struct err *err)
{
	if (clock_ms() - s->alive_ms < s->settings->lease * 1000 / 3)
		return 0;
	s->alive_ms = clock_ms();
	return feed_renew(&s->feed, &s->lease, err);
}

/* ---- events ---- */

static int plan(struct subscription *s, struct err *err)
{
	struct relation *rel = &s->domain.rel;

	if (!rel->output_wants)
		rel->output_wants = mem_array(MAX_OUTPUTS, sizeof(*rel->output_wants));
	return fanout_plan(&s->outputs, rel, rel->output_wants, &rel->wanted, err);
}

static struct value text(const char *s)
{
	if (!s)
		return (struct value){ .kind = VALUE_NULL };
	return (struct value){ s, (uint32_t)strlen(s), VALUE_TEXT };
}

/* The event as a row of the store's view. Numbers and the time are put into text first, each with a
 * NUL behind it. */
static void fill_row(struct subscription *s, const struct store_event *e)
{
	struct value *v = s->domain.values;
	struct strbuf *b = &s->numbers;
	size_t version, time;

	b->n = 0;
	strbuf_printf(b, "%" PRId64, e->position);
	strbuf_ch(b, '\0');
	version = b->n;
	strbuf_printf(b, "%" PRId64, e->version);
	strbuf_ch(b, '\0');
	time = b->n;
	time_print(b, e->time, ' ', TIME_TRIM);
	strbuf_lit(b, "+00\0");
	v[DOMAIN_CATEGORY] = text(e->category);
	v[DOMAIN_STREAM] = text(e->stream);
	v[DOMAIN_VERSION] = text(b->p + version);
	v[DOMAIN_ID] = text(e->id);
	v[DOMAIN_TYPE] = text(e->type);
	v[DOMAIN_DATA] = text(e->data);
	v[DOMAIN_METADATA] = text(e->metadata);
	v[DOMAIN_TOPIC] = text(e->topic);
	v[DOMAIN_TIME] = text(b->p + time);
	v[DOMAIN_POSITION] = text(b->p);
}

static int hand_on(struct subscription *s, const struct store_event *stored, struct err *err)
{
	uint64_t position = (uint64_t)stored->position;
	struct event e = { .position = { position, 0 }, .lsn = position, .source = &s->source };

	fill_row(s, stored);
	if (domain_event(&s->domain, str_c(s->settings->schema), &e) && plan(s, err))
		return -1;
	s->handed = position;
	if (!fanout_put(&s->outputs, &e)) {
		s->passed = position;
		return 0;
	}
	fanout_given(&s->outputs, s->given);
	checkpoint_push(&s->checkpoint, position, s->given);
	s->done = s->settings->limit && ++s->events >= s->settings->limit;
	return 0;
}

/* Hands on what was fetched while there is room. */
static int hand_page(struct subscription *s, struct err *err)
{
	const struct store_event *e;

	while (!s->done && (e = feed_next(&s->feed)) && fanout_has_room(&s->outputs)) {
		if ((uint64_t)e->position > s->handed && hand_on(s, e, err))
			return -1;
		s->feed.row++;
	}
	return 0;
}

/* As many as fit into the bytes, going by this page. */
static void size_page(struct subscription *s)
{
	const struct store_page *page = &s->feed.page;
	size_t bytes = page->n * sizeof(*page->events), fit;

	for (size_t i = 0; i < page->n; i++)
		bytes += strlen(page->events[i].data) + strlen(page->events[i].metadata);
	fit = PAGE_BYTES / (bytes / page->n) + 1;
	s->page_most = s->page_most * 2 < PAGE_MOST ? s->page_most * 2 : PAGE_MOST;
	if ((size_t)s->page_most > fit)
		s->page_most = (int)fit;
}

static int fetch(struct subscription *s, struct err *err)
{
	const struct store_page *page = &s->feed.page;
	int64_t done = to_acknowledge(s);
	int most = s->page_most;

	if (begin_look(s, err) || feed_fetch(&s->feed, &s->lease, done, most, err))
		return -1;
	acknowledged(s, done);
	if (page->n == 0 || (uint64_t)page->events[page->n - 1].position <= s->handed) {
		feed_drop_page(&s->feed);
		s->done = s->settings->parked; /* there are no more */
		pace_nothing(&s->pace, clock_ms());
		return s->lease.partitions > 1 && all_taken(s) ? change_claim(s, err) : 0;
	}
	size_page(s);
	pace_found(&s->pace, page->n, (int)page->n == most || s->settings->parked, clock_ms());
	return 0;
}

/* Of a subscription the next page begins behind what is acknowledged, so that much of it is in
 * flight already; it is fetched when that is less than half. */
static bool may_fetch(const struct subscription *s)
{
	if (s->settings->parked && !all_taken(s))
		return false;
	return !feed_next(&s->feed) && !s->done && clock_ms() >= s->pace.next &&
	       in_flight(s) < ((uint64_t)s->page_most + 1) / 2;
}

/* One of several partitions has had its time. */
static bool turn_is_over(const struct subscription *s)
{
	return s->lease.partitions > 1 && clock_ms() - s->claimed_ms > TURN_MS;
}

/* Nothing has come for so long that the lease, which is a write, is not worth it. */
static bool is_idle(const struct subscription *s)
{
	return s->lease.name && s->pace.sleep > 0 && !feed_next(&s->feed) && all_taken(s) &&
	       clock_ms() - s->pace.busy > s->settings->lease * 1000 / 3;
}

/* All at once where nothing is in flight, unless the next look is soon, which does it by the way. */
static bool must_acknowledge(const struct subscription *s)
{
	int64_t now = clock_ms();

	return all_taken(s) ? s->pace.next > now + ACK_MS : now - s->alive_ms >= ACK_MS;
}

/* With a partition. */
static int work(struct subscription *s, struct err *err)
{
	if (!s->outputs.opened) {
		s->pace.busy = clock_ms();
		return keep_lease(s, err);
	}
	if (!s->outputs_checked && check_outputs(s, err))
		return -1;
	if (hand_page(s, err))
		return -1;
	fanout_flush(&s->outputs, false);
	if (!all_taken(s))
		s->pace.busy = clock_ms();
	if (must_acknowledge(s) && acknowledge(s, err))
		return -1;
	if (is_idle(s))
		return acknowledge(s, err) ? -1 : give_back(s, err);
	if (!turn_is_over(s))
		return may_fetch(s) ? fetch(s, err) : keep_lease(s, err);
	if (all_taken(s) && !feed_next(&s->feed))
		return acknowledge(s, err) ? -1 : change_claim(s, err);
	return keep_lease(s, err);
}

/* ---- connecting ---- */

static struct str keep(struct arena *a, const char *text)
{
	return (struct str){ arena_copy(a, text, strlen(text)), strlen(text) };
}

static void describe_source(struct subscription *s)
{
	const struct store_identity *is = &s->feed.is;
	const char *label = s->settings->name;

	arena_release(&s->arena);
	s->source.system_id = is->id;
	s->source.server_version = is->server_version;
	s->source.db = keep(&s->arena, is->name);
	s->source.name = label ? keep(&s->arena, label) : s->source.db;
}

static void disconnect(struct subscription *s)
{
	if (s->loop.watching)
		loop_unwatch(&s->loop);
	feed_disconnect(&s->feed);
}

/* After a failure: whether it is worth another try. */
static int lost(struct subscription *s, struct err *err)
{
	if (feed_lost_lease(&s->feed)) {
		log_warn("%s; what was not acknowledged begins anew", err->msg);
		forget_claim(s);
		return 0;
	}
	if (err->kind != ERR_RETRY)
		return -1;
	if (!s->down_logged && !s->stop)
		log_warn("%s; trying again", err->msg);
	s->down_logged = true;
	disconnect(s);
	s->retry_ms = clock_ms() + backoff_next(&s->backoff);
	return 0;
}

static int connect_feed(struct subscription *s, struct err *err)
{
	int there;

	if (clock_ms() < s->retry_ms)
		return 0;
	there = feed_connect(&s->feed, s->loop.progress, (int64_t)s->handed, err);
	if (there <= 0)
		return there < 0 ? lost(s, err) : 0;
	if (!s->source.db.n)
		describe_source(s);
	if (s->feed.socket >= 0)
		loop_watch(&s->loop, s->feed.socket);
	s->down_logged = false;
	backoff_reset(&s->backoff);
	s->pace.listens = s->feed.socket >= 0;
	pace_wake(&s->pace);
	return 0;
}

/* ---- refused events ---- */

/* Whether the outputs that have not failed have taken all before the first event that waits. */
static bool others_are_there(struct subscription *s)
{
	size_t failed = 0, others = 0;
	struct err ignored;

	for (size_t i = 0; i < s->outputs.n; i++)
		s->taken[i] = sink_taken(s->outputs.v[i].sink);
	checkpoint_advance(&s->checkpoint, s->taken);
	for (size_t i = 0; i < s->outputs.n && !checkpoint_empty(&s->checkpoint); i++) {
		if (s->taken[i] >= checkpoint_number(&s->checkpoint, i))
			continue;
		if (sink_condition(s->outputs.v[i].sink, &ignored) == SINK_FAILED)
			failed++;
		else
			others++;
	}
	return failed > 0 && others == 0;
}

/* An output has refused an event for good: the subscription's policy says what becomes of it. */
static int on_refused(struct subscription *s, struct err *err)
{
	enum store_outcome outcome = STORE_RETRIES;
	char why[sizeof(err->msg)];
	bool alone;

	if (!s->claimed || !s->lease.name || !feed_connected(&s->feed) || err->kind != ERR_FAIL ||
	    all_taken(s))
		return -1;
	memcpy(why, err->msg, sizeof(why));
	alone = others_are_there(s);
	if (!s->refused_ms)
		s->refused_ms = clock_ms();
	if (!alone && clock_ms() - s->refused_ms < OTHERS_MS)
		return 0;
	s->refused_ms = 0;
	if (acknowledge(s, err))
		return lost(s, err);
	if (alone && feed_fail(&s->feed, &s->lease, (int64_t)checkpoint_first(&s->checkpoint), why,
			       &outcome, err))
		return lost(s, err);
	if (outcome == STORE_STOPPED)
		return err_set(
			err, ERR_FAIL,
			"%.700s. Partition %d of %s has stopped there; start again when that is "
			"mended, or park such events with --on-failure park",
			why, s->lease.partition, s->lease.name);
	log_warn("%s: %s", outcome == STORE_PARKED ? "parked" : "trying again later", why);
	if ((!alone || outcome == STORE_PARKED) && give_back(s, err))
		return lost(s, err);
	forget_claim(s);
	return 0;
}

/* ---- one step ---- */

static int drain(struct subscription *s, struct err *err)
{
	bool taken = all_taken(s), late;

	if (s->stop && !s->drain_end_ms)
		s->drain_end_ms = clock_ms() + STOP_DRAIN_MS;
	late = s->stop && clock_ms() > s->drain_end_ms;
	if (!taken && !late)
		return feed_connected(&s->feed) && s->claimed && keep_lease(s, err) ? lost(s, err)
										    : 0;
	if (!taken)
		log_warn("some events were not taken in time; they come again");
	if (feed_connected(&s->feed) && s->claimed && (acknowledge(s, err) || give_back(s, err)))
		log_warn("%s", err->msg); /* the lease ends by itself */
	return 1;
}

static int begin_drain(struct subscription *s, struct err *err)
{
	s->draining = true;
	feed_drop_page(&s->feed);
	fanout_drain(&s->outputs);
	return drain(s, err);
}

static int serve(struct subscription *s, struct err *err)
{
	int failed;

	if (feed_woken(&s->feed))
		pace_woken(&s->pace, clock_ms());
	failed = s->claimed ? work(s, err) : look_for_claim(s, err);
	if (!failed && feed_woken(&s->feed)) /* that came with an answer */
		pace_woken(&s->pace, clock_ms());
	return failed;
}

/* How long there is nothing to do, if nothing comes. */
static int rest(struct subscription *s)
{
	int64_t ms = TICK_MS, now = clock_ms();

	if (!feed_connected(&s->feed))
		return feed_connecting(&s->feed) || s->retry_ms > now ? TICK_MS : 0;
	if (s->draining)
		return TICK_MS;
	if (feed_next(&s->feed) && s->outputs.opened)
		return fanout_has_room(&s->outputs) ? 0 : TICK_MS;
	if (s->claimed && !s->outputs.opened)
		return TICK_MS;
	if (!checkpoint_empty(&s->checkpoint))
		ms = ACK_MS;
	if (s->pace.next - now < ms)
		ms = s->pace.next - now;
	return ms > 0 ? (int)ms : 0;
}

int subscription_step(struct subscription *s, struct err *err)
{
	loop_wait(&s->loop, rest(s));
	if (fanout_look(&s->outputs, s->taken, err))
		return on_refused(s, err);
	checkpoint_advance(&s->checkpoint, s->taken);
	if (s->draining)
		return drain(s, err);
	if (!feed_connected(&s->feed)) {
		if (!s->stop && connect_feed(s, err))
			return -1;
	} else if (serve(s, err) && lost(s, err)) {
		return -1;
	}
	return s->stop || s->done ? begin_drain(s, err) : 0;
}

void subscription_stop(struct subscription *s)
{
	s->stop = 1;
	loop_wake(&s->loop);
}

struct subscription *subscription_open(const struct settings *o, struct err *err)
{
	struct subscription *s = mem_alloc(sizeof(*s));
	char host[256] = "";

	s->settings = o;
	s->loop = LOOP_CLOSED;
	s->pace.most = o->max_sleep;
	s->backoff = (struct backoff){ BACKOFF_FIRST_MS, BACKOFF_MOST_MS, 0 };
	gethostname(host, sizeof(host) - 1);
	strbuf_printf(&s->owner, "%s/%d", host, (int)getpid());
	if (feed_init(&s->feed, o, strbuf_cstr(&s->owner), &s->stop, err) ||
	    loop_open(&s->loop, TICK_MS, err) || fanout_check(o, err)) {
		subscription_close(s);
		return NULL;
	}
	return s;
}

void subscription_close(struct subscription *s)
{
	struct err ignored;

	if (!s)
		return;
	if (feed_connected(&s->feed) && give_back(s, &ignored))
		log_debug("%s", ignored.msg); /* the lease ends by itself */
	stop_outputs(s);
	if (s->stuck)
		s->loop.progress = -1;
	disconnect(s);
	feed_release(&s->feed);
	checkpoint_release(&s->checkpoint);
	domain_release(&s->domain);
	arena_release(&s->arena);
	strbuf_release(&s->slot);
	strbuf_release(&s->owner);
	strbuf_release(&s->numbers);
	loop_close(&s->loop);
	free(s);
}
