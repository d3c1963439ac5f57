/*
 * From a server's pgoutput messages to events: keeps the relations of the session and the state of
 * the open transaction, counts ordinals, fills unchanged TOAST values from full old rows, makes
 * binary values text.
 *
 * The stream asks for committed transactions only, so what arrives between Begin and Commit has
 * happened and nothing is held back.
 */
#ifndef PGHERALD_DECODER_H
#define PGHERALD_DECODER_H

#include "base/strbuf.h"
#include "decode/pgoutput.h"

/* What the decoder calls; each returns 0 or -1 with err filled. */
struct decoder_ops {
	/* A relation is new or has changed. All columns' types are built-in or type_unknown; the
	 * callee may replace those (rel->types and `arena` live as long as the relation) and sets
	 * type_name and, for identity 'f', primary. */
	int (*relation)(void *user, struct relation *rel, struct arena *arena, struct err *err);
	int (*event)(void *user, const struct event *e, struct err *err);
	/* Everything before this LSN has been given to `event`. */
	int (*commit)(void *user, uint64_t end_lsn, struct err *err);
	/* Before a row of a relation that has composite types: no message tells when these change.
	 * Not needed where `relation` finds no such types. */
	int (*retype)(void *user, struct relation *rel, struct err *err);
};

struct decoder {
	const struct decoder_ops *ops;
	void *user;
	bool check_utf8;     /* the server does not vouch for its text (SQL_ASCII) */
	bool binary;         /* values may come in binary */
	bool binary_refused; /* set when one came that cannot be read: ask for text instead */

	struct pgoutput parser;
	struct cached **slots; /* relations by OID, open addressing */
	uint32_t nslots;
	uint32_t ncached;
	struct event event; /* fields of the open transaction */
	bool in_transaction;
	struct strbuf origin;
	struct strbuf scratch; /* values made text; one event's */
};

void decoder_init(struct decoder *d, const struct source *source, const struct decoder_ops *ops,
		  void *user);
void decoder_release(struct decoder *d);

/* Takes one message. wal_start is its LSN as the server says, sent_at its time in microseconds
 * since 1970. */
int decoder_message(struct decoder *d, uint64_t wal_start, int64_t sent_at, struct str bytes,
		    struct err *err) MUST_CHECK;

/* Calls fn for every cached relation (when filters change). */
void decoder_each_relation(struct decoder *d, void (*fn)(void *user, struct relation *rel),
			   void *user);

/* Forgets relations and the open transaction: a new session begins. */
void decoder_reset(struct decoder *d);

#endif
