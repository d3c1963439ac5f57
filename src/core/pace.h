/*
 * When a subscription looks for events. Each look costs those who append, and few events bring as
 * much as many: after a page that was not full the next look is so many ms later as it had events,
 * at most 32. Where there was none, one more look comes 1 ms later. If that is in vain too, the
 * store is told that somebody sleeps, so that whoever appends wakes us; after another look, for
 * what came meanwhile, we sleep. Who is woken again and again by events of others looks each 32 ms
 * for a second, and only then says again that it sleeps.
 * A store that wakes nobody is looked at after sleeps that double.
 */
#ifndef PGHERALD_PACE_H
#define PGHERALD_PACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All in milliseconds. Zeroed but for the first two it looks at once. */
struct pace {
	int64_t most; /* the longest sleep */
	bool listens; /* the store wakes us */
	int64_t next; /* look; 0: at once */
	int64_t looked;
	int64_t busy;  /* when there was something to do */
	int64_t sleep; /* the last one, or the one to come; 0: awake */
	bool tells;    /* the store that we sleep, before the next look */
	bool told;
	int looks;    /* still to come in vain before the store is told */
	bool woken;   /* and there was no event since */
	bool in_vain; /* likewise, again and again */
};

/* The next look is at once. */
void pace_wake(struct pace *p);

/* The store has said that somebody appended. */
void pace_woken(struct pace *p, int64_t now);

/* Here is a look. If true, the store is to be told first, and may lower p->sleep. */
bool pace_look(struct pace *p, int64_t now);

/* What the look has found: a page of n events, or nothing. */
void pace_found(struct pace *p, size_t n, bool full, int64_t now);
void pace_nothing(struct pace *p, int64_t now);

#endif
