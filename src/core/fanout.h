/*
 * The outputs of a capture, together: started, given events, asked how far they are, ended. Used
 * by the reader's thread.
 */
#ifndef PGHERALD_FANOUT_H
#define PGHERALD_FANOUT_H

#include "core/output.h"

#define MAX_OUTPUTS 64

struct fanout {
	struct output v[MAX_OUTPUTS];
	size_t n; /* of those that are started */
	size_t wanted;
	struct sink *dead[MAX_OUTPUTS]; /* for dead letters, shared where the URL is the same */
	const char *dead_url[MAX_OUTPUTS];
	enum sink_condition dead_condition[MAX_OUTPUTS]; /* as last logged */
	size_t ndead;
	int progress;
	struct arena arena;
	bool opened; /* all have been open once: what they hold is known */
};

/* Whether the settings' outputs could be started. */
int fanout_check(const struct settings *s, struct err *err) MUST_CHECK;

/* For a zeroed or closed fanout; what it points to in the settings is borrowed. progress is an
 * eventfd. */
int fanout_start(struct fanout *f, const struct settings *s, const struct source *source,
		 int progress, struct err *err) MUST_CHECK;

/* Asks all to end and waits. Returns whether all threads have ended; one that is stuck in a system
 * call keeps its sink, and `progress`. */
bool fanout_close(struct fanout *f);

/* Whether an output's address names columns, which tables may lack. */
bool fanout_names_columns(const struct fanout *f);

/* The actions that each output wants of this table, into wants[]; those that any does, into *any.
 * CONFIG when an output's address names a column that the table has not. */
int fanout_plan(const struct fanout *f, const struct relation *rel, uint16_t *wants, uint16_t *any,
		struct err *err) MUST_CHECK;

/* Gives the event to each that wants it, as planned; returns whether one did. */
bool fanout_put(struct fanout *f, const struct event *e);

/* The last sequence number that each was given. */
void fanout_given(const struct fanout *f, uint64_t *given);

/* Looks how they do, and logs it where it changed: taken[] is what each has taken. Fails when one
 * has failed for good. */
int fanout_look(struct fanout *f, uint64_t *taken, struct err *err) MUST_CHECK;

/* Whether each can be given one more event. */
bool fanout_has_room(struct fanout *f);

/* Logs which have none. */
void fanout_say_full(const struct fanout *f);

/* Hands over what is waiting to those that have nothing to do, or to all. */
void fanout_flush(struct fanout *f, bool all);

/* Hands over all and asks to have it taken soon. */
void fanout_drain(struct fanout *f);

/* Asks each that can to remember that the slot will be told so. */
void fanout_mark(struct fanout *f, const struct mark *m);

/* What all have remembered: the slot may be told of this and no more. */
uint64_t fanout_marked(const struct fanout *f);

#endif
