/* The events that every format is tested with, by name. */
#ifndef PGHERALD_GOLDEN_EVENTS_H
#define PGHERALD_GOLDEN_EVENTS_H

#include "event/event.h"

/* Makes them all. */
void events_init(void);
void events_release(void);

/* NULL: no event of this name. */
const struct event *events_get(const char *name);

#endif
