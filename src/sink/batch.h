/*
 * A batch: messages for one sink, in order, as bytes. It has one owner at a time: reader, queue,
 * sink thread, and back empty.
 */
#ifndef PGHERALD_BATCH_H
#define PGHERALD_BATCH_H

#include "base/strbuf.h"
#include "event/event.h"

struct message {
	size_t at; /* in body; the message's bytes are followed by a newline that is not part */
	size_t n;
	size_t meta; /* in batch.meta: address, key, table and headers, one behind the other */
	uint32_t address_n, key_n, table_n, headers_n;
	struct position position;
	int64_t time; /* of the commit, microseconds since 1970-01-01 UTC */
	uint8_t part; /* 0, and counting up where an event is more than one message */
	bool null;    /* has no body: everything of its key is to be forgotten */
	bool refused; /* for good, and dealt with: not to be sent again */
};

struct batch {
	struct batch *next;
	uint64_t first; /* sequence number of messages[0]; the others count up by one */
	uint32_t n;
	uint32_t cap;
	struct message *messages;
	struct strbuf body;
	struct strbuf meta;
};

static inline struct str batch_body(const struct batch *b, uint32_t i)
{
	return (struct str){ b->body.p + b->messages[i].at, b->messages[i].n };
}

/* Empty where the driver has no addresses. */
static inline struct str batch_address(const struct batch *b, uint32_t i)
{
	const struct message *m = &b->messages[i];

	return (struct str){ b->meta.p + m->meta, m->address_n };
}

/* Empty where the driver has no keys or the event has none. */
static inline struct str batch_key(const struct batch *b, uint32_t i)
{
	const struct message *m = &b->messages[i];

	return (struct str){ b->meta.p + m->meta + m->address_n, m->key_n };
}

/* "schema.table", for people; empty for what is no change. */
static inline struct str batch_table(const struct batch *b, uint32_t i)
{
	const struct message *m = &b->messages[i];

	return (struct str){ b->meta.p + m->meta + m->address_n + m->key_n, m->table_n };
}

/* NAME 0 VALUE 0 of each, as the driver's style of headers has them. */
static inline struct str batch_headers(const struct batch *b, uint32_t i)
{
	const struct message *m = &b->messages[i];

	return (struct str){ b->meta.p + m->meta + m->address_n + m->key_n + m->table_n,
			     m->headers_n };
}

/* Takes the next name and value, both terminated; false when there is none. */
static inline bool batch_next_header(struct str *rest, const char **name, const char **value)
{
	if (rest->n == 0)
		return false;
	*name = rest->p;
	*value = *name + strlen(*name) + 1;
	*rest = str_from(*rest, (size_t)(*value + strlen(*value) + 1 - rest->p));
	return true;
}

/* The message that is put in next; the caller fills it in and then counts n up. */
struct message *batch_next(struct batch *b);

/* Makes it empty; what one huge message made grow is given back. */
void batch_clear(struct batch *b);

/* NULL is nothing. */
void batch_free(struct batch *b);

#endif
