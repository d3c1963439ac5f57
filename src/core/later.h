/*
 * Events that a callback answered CAPTURE_LATER, in order, until they are acknowledged.
 */
#ifndef PGHERALD_LATER_H
#define PGHERALD_LATER_H

#include "event/event.h"

struct later {
	struct position *v; /* those that wait are v[first..n) */
	size_t first, n, cap;
};

static inline bool later_empty(const struct later *l)
{
	return l->first == l->n;
}

void later_put(struct later *l, struct position p);

/* Lets out all up to here; returns how many. */
size_t later_take(struct later *l, struct position p);

/* Forgets all. */
void later_clear(struct later *l);
void later_release(struct later *l);

#endif
