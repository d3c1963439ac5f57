#include "core/fanout.h"

#include "base/log.h"

#define END_MS 1000

/* Prepares the settings' outputs without starting them. */
static int prepare(struct fanout *f, const struct settings *s, struct err *err)
{
	if (s->noutputs > MAX_OUTPUTS)
		return err_set(err, ERR_CONFIG, "%zu outputs are more than %d", s->noutputs,
			       MAX_OUTPUTS);
	for (size_t i = 0; i < s->noutputs; i++)
		if (output_init(&f->v[i], s, &s->outputs[i], &f->filters, err) ||
		    sink_check(s->outputs[i].to, err))
			return -1;
	return 0;
}

static void release(struct fanout *f)
{
	for (size_t i = 0; i < MAX_OUTPUTS; i++)
		output_release(&f->v[i]);
	arena_release(&f->filters);
	memset(f, 0, sizeof(*f));
}

int fanout_check(const struct settings *s, struct err *err)
{
	struct fanout trial = { 0 };
	int failed = prepare(&trial, s, err);

	release(&trial);
	return failed;
}

int fanout_start(struct fanout *f, const struct settings *s, int progress, struct err *err)
{
	if (prepare(f, s, err))
		return -1;
	for (f->n = 0; f->n < s->noutputs; f->n++) {
		struct output *o = &f->v[f->n];

		o->sink = sink_start(s->outputs[f->n].to, o->format, progress, err);
		if (!o->sink)
			return -1;
	}
	f->opened = f->n == 0;
	return 0;
}

bool fanout_close(struct fanout *f)
{
	bool ended = true;

	for (size_t i = 0; i < f->n; i++)
		sink_end(f->v[i].sink);
	for (size_t i = 0; i < f->n; i++)
		ended &= sink_join(f->v[i].sink, END_MS) == 0;
	release(f);
	return ended;
}

uint16_t fanout_plan(const struct fanout *f, const struct relation *rel, uint16_t *wants)
{
	uint16_t any = 0;

	for (size_t i = 0; i < f->n; i++) {
		wants[i] = filter_table(&f->v[i].filter, rel->schema, rel->name);
		any |= wants[i];
	}
	return any;
}

static bool wants(const struct fanout *f, size_t i, const struct event *e)
{
	if (e->rel)
		return e->rel->output_wants[i] & ACTION_BIT(e->action);
	return e->action != ACTION_MESSAGE || f->v[i].filter.actions & ACTION_BIT(ACTION_MESSAGE);
}

bool fanout_put(struct fanout *f, const struct event *e)
{
	bool wanted = false;

	for (size_t i = 0; i < f->n; i++) {
		if (!wants(f, i, e))
			continue;
		output_put(&f->v[i], e);
		wanted = true;
	}
	return wanted;
}

void fanout_given(const struct fanout *f, uint64_t *given)
{
	for (size_t i = 0; i < f->n; i++)
		given[i] = f->v[i].given;
}

static void log_condition(const struct output *o, enum sink_condition was, const struct err *why)
{
	if (o->condition == SINK_RETRYING)
		log_warn("output %s is down, trying again: %s", o->sink->label, why->msg);
	else if (o->condition == SINK_OPEN && was == SINK_RETRYING)
		log_info("output %s is back", o->sink->label);
}

int fanout_look(struct fanout *f, uint64_t *taken, struct err *err)
{
	bool opened = true;

	for (size_t i = 0; i < f->n; i++) {
		struct output *o = &f->v[i];
		enum sink_condition was = o->condition;

		taken[i] = sink_taken(o->sink);
		o->condition = sink_condition(o->sink, err);
		opened &= o->condition == SINK_OPEN || o->condition == SINK_ENDED;
		if (o->condition == SINK_FAILED)
			return err_add(err, "output %s", o->sink->label);
		if (o->condition != was)
			log_condition(o, was, err);
	}
	f->opened |= opened;
	return 0;
}

bool fanout_has_room(struct fanout *f)
{
	for (size_t i = 0; i < f->n; i++)
		if (!output_has_room(&f->v[i]))
			return false;
	return true;
}

void fanout_say_full(const struct fanout *f)
{
	for (size_t i = 0; i < f->n; i++)
		if (!f->v[i].batch)
			log_warn("waiting for output %s, which takes nothing more",
				 f->v[i].sink->label);
}

void fanout_flush(struct fanout *f, bool all)
{
	for (size_t i = 0; i < f->n; i++)
		if (all || !sink_busy(f->v[i].sink))
			output_flush(&f->v[i]);
}

void fanout_drain(struct fanout *f)
{
	fanout_flush(f, true);
	for (size_t i = 0; i < f->n; i++)
		sink_drain(f->v[i].sink);
}

void fanout_mark(struct fanout *f, const struct mark *m)
{
	for (size_t i = 0; i < f->n; i++)
		sink_mark(f->v[i].sink, m);
}

uint64_t fanout_marked(const struct fanout *f)
{
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < f->n; i++)
		if (sink_marked(f->v[i].sink) < least)
			least = sink_marked(f->v[i].sink);
	return least;
}
