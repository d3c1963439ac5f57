/* What the public face's files share. */
#ifndef PGHERALD_LIB_H
#define PGHERALD_LIB_H

#include "event/event.h"
#include "store/store.h"

#include <pgherald.h>

struct herald_event {
	const struct event *e;
	struct arena *arena; /* strings handed out; emptied behind each event */
};

/* An event of the store as the public face shows it. */
static inline struct herald_stored lib_stored(const struct store_event *e)
{
	return (struct herald_stored){ e->position, e->version, e->time,  e->category, e->stream,
				       e->id,       e->type,    e->topic, e->data,     e->metadata };
}

#endif
