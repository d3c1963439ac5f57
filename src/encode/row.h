/* Which values of an event's rows a format may show. */
#ifndef PGHERALD_ROW_H
#define PGHERALD_ROW_H

#include "event/event.h"

/* Column i of the new row, or NULL when it was not sent because it did not change (TOAST). */
static inline const struct value *row_new(const struct event *e, uint32_t i)
{
	return e->new && e->new[i].kind != VALUE_UNCHANGED ? &e->new[i] : NULL;
}

/* Column i of the old row, or NULL when the server did not send it: only a full replica identity
 * has columns that are no part of the key. */
static inline const struct value *row_old(const struct event *e, uint32_t i)
{
	if (!e->old || !(e->old_full || e->rel->cols[i].key) || e->old[i].kind == VALUE_UNCHANGED)
		return NULL;
	return &e->old[i];
}

/* Column i of what identified the row before an update or delete: row_old, or the key in the new
 * row where the server sent no old one because the key did not change. */
static inline const struct value *row_identity(const struct event *e, uint32_t i)
{
	if (e->old)
		return row_old(e, i);
	return e->rel->cols[i].key ? row_new(e, i) : NULL;
}

#endif
