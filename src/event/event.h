/*
 * An event: one change, as borrowed bytes. Everything it points to lives until the handler it was
 * given to returns; who wants to keep something copies it. Nothing is allocated per event.
 */
#ifndef PGHERALD_EVENT_H
#define PGHERALD_EVENT_H

#include "event/type.h"

/* Where an event stands in the order of all events: the LSN of its transaction's commit record
 * and its ordinal in the transaction, from 1. A message outside of transactions has its own LSN
 * and ordinal 0. It never changes on replay. */
struct position {
	uint64_t lsn;
	uint32_t ordinal;
};

/* As text "000000000153A978-00000003": text order is event order. */
#define POSITION_LEN 25

void position_print(struct position p, char out[POSITION_LEN]); /* not terminated */
bool position_parse(struct str s, struct position *p);          /* false: not a position */

static inline int position_cmp(struct position a, struct position b)
{
	if (a.lsn != b.lsn)
		return a.lsn < b.lsn ? -1 : 1;
	return a.ordinal < b.ordinal ? -1 : a.ordinal > b.ordinal;
}

/* LSNs as PostgreSQL writes them: "0/153A978". */
#define LSN_FMT "%X/%X"
#define LSN_ARG(lsn) (uint32_t)((lsn) >> 32), (uint32_t)(lsn)
bool lsn_parse(struct str s, uint64_t *lsn);

enum action {
	ACTION_INSERT,
	ACTION_UPDATE,
	ACTION_DELETE,
	ACTION_TRUNCATE,
	ACTION_MESSAGE,
	ACTION_EVENT,  /* of the event store; see event/domain.h */
	ACTION_BEGIN,  /* only for formats that show transactions */
	ACTION_COMMIT, /* likewise */
	ACTION_COUNT
};

#define ACTION_BIT(a) (1u << (a))
#define ACTIONS_ALL (ACTION_BIT(ACTION_BEGIN) - 1)

/* "insert", "update" ... */
extern const struct str action_names[ACTION_COUNT];

/* Kinds as pgoutput marks them; binary values are made text before anybody sees them. */
enum value_kind {
	VALUE_NULL = 'n',
	VALUE_UNCHANGED = 'u', /* a TOASTed value that was not sent because it did not change */
	VALUE_TEXT = 't',
	VALUE_BINARY = 'b', /* only between the wire and the decoder */
};

struct value {
	const char *p;
	uint32_t n;
	enum value_kind kind;
};

static inline struct str value_str(const struct value *v)
{
	return (struct str){ v->p, v->n };
}

struct column {
	struct field field;   /* name, JSON key, type */
	struct str type_name; /* format_type(oid, typmod): "character varying(20)" */
	uint32_t type_oid;
	int32_t typmod;
	bool key;     /* part of the replica identity as PostgreSQL flags it */
	bool primary; /* part of the key that events show: the replica identity's columns; for
		       * FULL (which flags all columns) those of the primary key */
};

/* What a table is to us. Those of an event store hold what its events are made of. */
enum relation_kind {
	RELATION_TABLE,
	RELATION_STREAMS, /* the store's table stream */
	RELATION_ENTRIES, /* the store's table entry */
	RELATION_STORE,   /* any other of the store's tables */
	RELATION_EVENTS,  /* no table: domain events of one category (event/domain.h) */
};

/* A table as its last Relation message described it; lives until the next one for this OID. */
struct relation {
	uint32_t oid;
	enum relation_kind kind;
	uint32_t store; /* OID of the store's schema, where the table is a store's */
	char identity;  /* d default, n nothing, f full, i index */
	struct str schema;
	struct str name;
	uint32_t ncols;
	struct column *cols;
	uint32_t nprimary;      /* columns with primary set */
	struct types types;     /* the user-defined ones among its columns' */
	uint32_t types_look;    /* the session's look at the catalog in which they were read */
	uint16_t wanted;        /* ACTION_BITs that some output wants; set by core/ */
	uint16_t *output_wants; /* likewise for each output; owned by core/, NULL before it decided */
	uint64_t listeners; /* a bit for each of the library's callbacks whose pattern matches */
};

/* Constant for a connection. */
struct source {
	struct str db;
	struct str slot;
	struct str name; /* a label of the user's choice for this server; db when not given */
	uint64_t system_id;
	uint32_t timeline;
	uint32_t server_version; /* 150020 */
};

struct event {
	enum action action;
	struct position position;
	uint64_t commit_end; /* COMMIT: LSN behind the commit record; otherwise 0 */
	uint64_t lsn;        /* of the change itself as the server sent it; not unique */
	int64_t time;      /* commit time, microseconds since 1970-01-01 UTC; for a message outside
			    * of transactions the time it was received */
	uint32_t xid;      /* 0 for a message outside of transactions */
	struct str origin; /* replication origin's name, empty when local */
	const struct source *source;

	/* insert, update, delete, truncate */
	const struct relation *rel;
	/* rel->ncols values or NULL. Where old_full, an unchanged TOAST value has already been
	 * filled in from the old row. */
	const struct value *new;
	const struct value *old;
	bool old_full; /* old holds all columns (REPLICA IDENTITY FULL); otherwise only cols[i].key
			* ones mean something */
	bool cascade;  /* truncate */
	bool restart_identity; /* truncate */

	/* message */
	bool transactional;
	struct str prefix;
	struct str content;
};

/* The value to show for column i's place in the key: from the new row, or from the old one where
 * there is no new row or its value was not sent. NULL when neither has it. */
const struct value *event_key_value(const struct event *e, uint32_t i);

/* Whether column i is among the columns that `changed` lists: the values differ and both are
 * known. Only meaningful where old_full. */
bool event_column_changed(const struct event *e, uint32_t i);

#endif
