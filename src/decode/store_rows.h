/*
 * Rows that are appended to the event store's tables, as they come from the log, made domain
 * events. Pure.
 *
 * An append writes the stream's row (category, id) and then the events' rows, in one statement. So
 * the stream of an entry is the one whose row came last; nothing is held, however many events a
 * transaction appends. Where it is another (an entry that was copied into the table, an unchanged
 * TOAST value) the caller looks it up: number, category and id of a stream never change.
 *
 * The feed's row with the position comes at the transaction's end, behind all entries. To join it
 * would mean to hold the transaction, so events out of the log have no position of the feed; theirs
 * is that in the log.
 */
#ifndef PGHERALD_STORE_ROWS_H
#define PGHERALD_STORE_ROWS_H

#include "event/domain.h"

struct store_rows {
	struct domain domain;
	uint32_t store;                         /* the stream's: its schema's OID */
	struct strbuf number, category, stream; /* the last one seen */
};

enum store_row {
	STORE_ROW_NOTHING,       /* no event */
	STORE_ROW_EVENT,         /* *out is one */
	STORE_ROW_UNKNOWN_STREAM /* give the stream to store_rows_stream and call again */
};

/* The actions on a store's table that may make an event. */
uint16_t store_rows_wanted(const struct relation *rel);

/* Takes a row of a store's table. *out is a copy of it as a domain event; *replan says what
 * domain_event does. */
enum store_row store_rows_take(struct store_rows *s, const struct event *row, struct event *out,
			       bool *replan);

/* The number of an entry's stream, as text. */
struct str store_rows_number(const struct event *row);

/* Says what stream a number stands for. */
void store_rows_stream(struct store_rows *s, uint32_t store, struct str number, struct str category,
		       struct str stream);

void store_rows_release(struct store_rows *s);

#endif
