/*
 * A domain event: what an application appended to the event store. Here it is one row of the
 * store's view `event`, in a relation of its own that has the store's schema and is named after the
 * event's category. So filters, templates, keys and the formats of rows take it for an insert into
 * SCHEMA.CATEGORY; its key is category and stream.
 */
#ifndef PGHERALD_DOMAIN_H
#define PGHERALD_DOMAIN_H

#include "base/err.h"
#include "base/strbuf.h"
#include "event/event.h"

/* The view's columns. */
enum domain_column {
	DOMAIN_CATEGORY,
	DOMAIN_STREAM,
	DOMAIN_VERSION,
	DOMAIN_ID,
	DOMAIN_TYPE,
	DOMAIN_DATA,
	DOMAIN_METADATA,
	DOMAIN_TOPIC,
	DOMAIN_TIME,
	DOMAIN_POSITION, /* only where the event was read from the feed */
	DOMAIN_COLUMNS
};

/* Makes domain events; zeroed, it is ready. */
struct domain {
	struct relation rel;
	struct column cols[DOMAIN_COLUMNS];
	struct value values[DOMAIN_COLUMNS];
	struct strbuf schema, category; /* the relation's names */
};

/* Makes e the event of d->values, which are filled in; a position that is not known is NULL. e->rel
 * and e->new point into d until the next one. Returns whether it has another schema or category
 * than the one before: then it has to be planned again. */
bool domain_event(struct domain *d, struct str schema, struct event *e);

/* The next event has to be planned again. */
void domain_forget(struct domain *d);

void domain_release(struct domain *d);

/* One column of a domain event; empty where it is NULL. */
struct str domain_text(const struct event *e, enum domain_column column);

#endif
