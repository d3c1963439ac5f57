/* The public face: streams and their callbacks. */
#include "base/log.h"
#include "conf/settings.h"
#include "core/capture.h"
#include "flow/filter.h"
#include "lib/herald.h"

#include <stdlib.h>

/* Bits of relation.listeners. */
#define MAX_LISTENERS 64

struct listener {
	struct filter filter;
	herald_event_fn *fn;
	void *user;
};

struct herald_stream {
	struct settings settings;
	struct capture *capture;
	struct listener listeners[MAX_LISTENERS];
	size_t nlisteners;
	struct arena filters;
	struct arena strings; /* of the event in hand */
	struct err err;
	_Atomic int stopped;
};

const char *herald_version(void)
{
	return PGHERALD_VERSION;
}

struct herald_stream *herald_stream_new(void)
{
	struct herald_stream *s = mem_alloc(sizeof(*s));

	settings_init(&s->settings);
	s->settings.log_level = "error"; /* the program has herald_stream_error */
	return s;
}

void herald_stream_free(struct herald_stream *s)
{
	if (!s)
		return;
	capture_close(s->capture);
	settings_release(&s->settings);
	arena_release(&s->filters);
	arena_release(&s->strings);
	free(s);
}

const char *herald_stream_error(const struct herald_stream *s)
{
	return s->err.msg;
}

/* Settings and callbacks are fixed once the stream has begun. */
static int too_late(struct herald_stream *s)
{
	if (!s->capture)
		return 0;
	return err_set(&s->err, ERR_USAGE, "the stream has begun: set it up before the first step");
}

int herald_stream_set(struct herald_stream *s, const char *name, const char *value)
{
	return too_late(s) ? -1 : settings_set(&s->settings, name, value, &s->err);
}

int herald_stream_on(struct herald_stream *s, unsigned actions, const char *pattern,
		     herald_event_fn *fn, void *user)
{
	struct listener *l = &s->listeners[s->nlisteners];
	struct strings patterns = { &pattern, 1 }, all = { 0 };

	if (too_late(s))
		return -1;
	if (s->nlisteners == MAX_LISTENERS)
		return err_set(&s->err, ERR_USAGE, "more than %d callbacks", MAX_LISTENERS);
	if (filter_init(&l->filter, &s->filters, &patterns, &all, &s->err))
		return -1;
	l->filter.actions = (uint16_t)(actions & HERALD_ALL);
	l->fn = fn;
	l->user = user;
	s->nlisteners++;
	return 0;
}

static uint16_t wants(void *user, struct relation *rel)
{
	struct herald_stream *s = user;
	uint16_t wanted = 0;

	rel->listeners = 0;
	for (size_t i = 0; i < s->nlisteners; i++) {
		uint16_t actions = filter_table(&s->listeners[i].filter, rel->schema, rel->name);

		wanted |= actions;
		rel->listeners |= (uint64_t)(actions != 0) << i;
	}
	return wanted;
}

static enum capture_answer on_event(void *user, const struct event *e)
{
	struct herald_stream *s = user;
	struct herald_event event = { e, &s->strings };
	enum herald_answer answer = HERALD_TAKEN;

	for (size_t i = 0; i < s->nlisteners && answer != HERALD_STOP; i++) {
		const struct listener *l = &s->listeners[i];
		enum herald_answer said;

		if (!(l->filter.actions & ACTION_BIT(e->action)) ||
		    (e->rel && !(e->rel->listeners >> i & 1)))
			continue;
		said = l->fn(l->user, &event);
		answer = said > answer ? said : answer;
	}
	arena_release(&s->strings);
	return answer == HERALD_TAKEN   ? CAPTURE_TAKEN
	       : answer == HERALD_LATER ? CAPTURE_LATER
					: CAPTURE_STOP;
}

static int begin(struct herald_stream *s)
{
	struct capture_callback callback = { on_event, wants, s };

	if (s->capture)
		return 0;
	if (s->nlisteners == 0 && s->settings.noutputs == 0)
		return err_set(&s->err, ERR_USAGE, "nothing to do: no callback and no output");
	log_setup_names(s->settings.log_format, s->settings.log_level);
	s->capture = capture_open(&s->settings, &callback, &s->err);
	if (s->capture && s->stopped)
		capture_stop(s->capture);
	return s->capture ? 0 : -1;
}

int herald_stream_fd(struct herald_stream *s)
{
	return begin(s) ? -1 : capture_fd(s->capture);
}

int herald_stream_step(struct herald_stream *s, int timeout_ms)
{
	return begin(s) ? -1 : capture_step(s->capture, timeout_ms, &s->err);
}

int herald_stream_run(struct herald_stream *s)
{
	int done;

	do {
		done = herald_stream_step(s, -1);
	} while (done == 0);
	return done < 0 ? -1 : 0;
}

void herald_stream_stop(struct herald_stream *s)
{
	s->stopped = 1;
	if (s->capture)
		capture_stop(s->capture);
}

void herald_stream_acknowledge(struct herald_stream *s, struct herald_position position)
{
	if (s->capture)
		capture_acknowledge(s->capture, (struct position){ position.lsn, position.ordinal });
}
