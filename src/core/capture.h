/*
 * The pipeline: captures a database's committed changes and delivers them to outputs and to a
 * callback. One thread calls everything here.
 */
#ifndef PGHERALD_CAPTURE_H
#define PGHERALD_CAPTURE_H

#include "conf/settings.h"
#include "event/event.h"

struct capture;

/* What a callback says of an event. */
enum capture_answer {
	CAPTURE_TAKEN,
	CAPTURE_LATER, /* capture_acknowledge will say so */
	CAPTURE_STOP,  /* not taken; stop */
};

struct capture_callback {
	enum capture_answer (*event)(void *user, const struct event *e);
	/* The actions wanted of a table, asked once for each Relation message. */
	uint16_t (*wants)(void *user, struct relation *rel);
	void *user;
};

/* The settings are borrowed until capture_close. The callback may be NULL; without one the
 * settings' outputs must not be empty. Nothing is connected yet. */
struct capture *capture_open(const struct settings *s, const struct capture_callback *callback,
			     struct err *err) MUST_CHECK;

/* Does what can be done now, waiting up to timeout_ms (-1: as long as needed) for something to do.
 * Returns 1 when the end is reached (limit, until, capture_stop), 0 to go on, -1 when it cannot. */
int capture_step(struct capture *c, int timeout_ms, struct err *err) MUST_CHECK;

/* Readable when capture_step has something to do; for an event loop. */
int capture_fd(const struct capture *c);

/* Finish the transaction in flight, drain, confirm. From any thread and from signal handlers. */
void capture_stop(struct capture *c);

/* All events up to here that were answered CAPTURE_LATER are taken. */
void capture_acknowledge(struct capture *c, struct position p);

/* Takes new settings (filters and outputs) at the next transaction's border, when everything that
 * was given to the old outputs has been taken. They are borrowed from then on. */
int capture_reload(struct capture *c, const struct settings *s, struct err *err) MUST_CHECK;

/* Whether settings given to capture_reload are not in force yet: the old ones are still in use. */
bool capture_reloading(const struct capture *c);

/* Ends in order: what is not taken within a few seconds stays in the slot. NULL is nothing. */
void capture_close(struct capture *c);

#endif
