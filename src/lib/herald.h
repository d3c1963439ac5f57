/* What the public face's files share. */
#ifndef PGHERALD_LIB_H
#define PGHERALD_LIB_H

#include "event/event.h"

#include <pgherald.h>

struct herald_event {
	const struct event *e;
	struct arena *arena; /* strings handed out; emptied behind each event */
};

#endif
