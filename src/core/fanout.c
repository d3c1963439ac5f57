#include "core/fanout.h"

#include "base/log.h"

#define END_MS 1000

/* Two outputs of one name would take each other's events for their own. */
static int check_writers(const struct settings *s, struct err *err)
{
	for (size_t i = 0; i < s->noutputs; i++)
		for (size_t k = 0; k < i && s->outputs[i].writer; k++)
			if (s->outputs[k].writer &&
			    strcmp(s->outputs[i].writer, s->outputs[k].writer) == 0)
				return err_set(err, ERR_CONFIG,
					       "two outputs are the writer %s: give each a name of "
					       "its own",
					       s->outputs[i].writer);
	return 0;
}

/* Prepares the settings' outputs without starting them. */
static int prepare(struct fanout *f, const struct settings *s, struct err *err)
{
	if (s->noutputs > MAX_OUTPUTS)
		return err_set(err, ERR_CONFIG, "%zu outputs are more than %d", s->noutputs,
			       MAX_OUTPUTS);
	for (size_t i = 0; i < s->noutputs; i++)
		if (output_init(&f->v[i], s, &s->outputs[i], &f->arena, err))
			return -1;
	f->wanted = s->noutputs;
	return check_writers(s, err);
}

static void release(struct fanout *f)
{
	for (size_t i = 0; i < MAX_OUTPUTS; i++)
		output_release(&f->v[i]);
	arena_release(&f->arena);
	memset(f, 0, sizeof(*f));
}

int fanout_check(const struct settings *s, struct err *err)
{
	struct fanout trial = { 0 };
	int failed = prepare(&trial, s, err);

	for (size_t i = 0; i < trial.wanted && !failed; i++)
		if (s->outputs[i].dead_letter)
			failed = sink_check(s->outputs[i].dead_letter, err);
	release(&trial);
	return failed;
}

/* The sink for an output's dead letters; started when the first output has this URL. */
static int find_dead(struct fanout *f, const struct output_settings *os, struct sink **dead,
		     struct err *err)
{
	struct sink_config config = { .url = os->dead_letter,
				      .format = &format_dead_letter,
				      .origin = "dead letters",
				      .is_dead_letter = true };

	*dead = NULL;
	if (!os->dead_letter || strcmp(os->on_refused, "dead-letter") != 0)
		return 0;
	for (size_t i = 0; i < f->ndead && !*dead; i++)
		if (strcmp(f->dead_url[i], os->dead_letter) == 0)
			*dead = f->dead[i];
	if (*dead)
		return 0;
	config.progress = f->progress;
	*dead = f->dead[f->ndead] = sink_start(&config, err);
	if (!*dead)
		return err_add(err, "dead_letter");
	f->dead_url[f->ndead++] = os->dead_letter;
	return 0;
}

int fanout_start(struct fanout *f, const struct settings *s, const struct source *source,
		 int progress, struct err *err)
{
	struct sink *dead;

	if (prepare(f, s, err))
		return -1;
	f->progress = progress;
	for (f->n = 0; f->n < f->wanted; f->n++)
		if (find_dead(f, &s->outputs[f->n], &dead, err) ||
		    output_start(&f->v[f->n], source, dead, progress, err))
			return -1;
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
	for (size_t i = 0; i < f->ndead; i++)
		sink_end(f->dead[i]);
	for (size_t i = 0; i < f->ndead; i++) /* not while a sink may still post to it */
		ended &= ended && sink_join(f->dead[i], END_MS) == 0;
	release(f);
	return ended;
}

bool fanout_names_columns(const struct fanout *f)
{
	for (size_t i = 0; i < f->n; i++)
		if (template_has_columns(&f->v[i].address))
			return true;
	return false;
}

int fanout_plan(const struct fanout *f, const struct relation *rel, uint16_t *wants, uint16_t *any,
		struct err *err)
{
	*any = 0;
	for (size_t i = 0; i < f->n; i++) {
		const struct output *o = &f->v[i];

		wants[i] = filter_table(&o->filter, rel->schema, rel->name);
		if (rel->kind == RELATION_EVENTS)
			wants[i] &= ACTION_BIT(ACTION_EVENT);
		*any |= wants[i];
		if (wants[i] && output_check_table(o, rel, wants[i], err))
			return err_add(err, "output %s", o->sink->label);
	}
	return 0;
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

static void log_condition(const char *what, const struct sink *s, enum sink_condition was,
			  enum sink_condition now, const struct err *why)
{
	if (now == SINK_RETRYING && was != now)
		log_warn("%s %s is down, trying again: %s", what, s->label, why->msg);
	else if (now == SINK_OPEN && was == SINK_RETRYING)
		log_info("%s %s is back", what, s->label);
}

static void log_notice(struct output *o)
{
	if (o->condition != SINK_OPEN || o->noticed || !o->sink->notice)
		return;
	o->noticed = true;
	log_warn("output %s: %s", o->sink->label, o->sink->notice);
}

static int look_at_dead(struct fanout *f, struct err *err)
{
	for (size_t i = 0; i < f->ndead; i++) {
		enum sink_condition was = f->dead_condition[i];

		f->dead_condition[i] = sink_condition(f->dead[i], err);
		if (f->dead_condition[i] == SINK_FAILED)
			return err_add(err, "dead letters to %s", f->dead[i]->label);
		log_condition("the place for dead letters", f->dead[i], was, f->dead_condition[i],
			      err);
	}
	return 0;
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
		log_notice(o);
		log_condition("output", o->sink, was, o->condition, err);
	}
	f->opened |= opened;
	return look_at_dead(f, err);
}

bool fanout_has_room(struct fanout *f)
{
	bool room = true;

	for (size_t i = 0; i < f->n; i++) /* of each, so that fanout_say_full knows */
		room &= output_has_room(&f->v[i]);
	return room;
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
