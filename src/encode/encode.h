/*
 * A format turns an event into the bytes of one message. Formats are rows of a table, one file
 * each; they are pure: same event and options, same bytes.
 */
#ifndef PGHERALD_ENCODE_H
#define PGHERALD_ENCODE_H

#include "base/strbuf.h"
#include "event/event.h"

enum number_style { NUMBER_JSON, NUMBER_STRING };
enum bytea_style { BYTEA_HEX, BYTEA_BASE64 };
enum time_style { TIME_ISO, TIME_EPOCH_US };

/* How a destination writes the headers of messages. */
struct header_style {
	const char *prefix; /* of attributes' names */
	const char *type;   /* the header of the content type; NULL: the driver says it by itself */
	bool escaped;       /* values have only visible ASCII, all else in percents */
};

/* How values and envelopes are written; one per output. */
struct encode_options {
	enum number_style numeric;
	enum number_style int8;
	enum bytea_style bytea;
	enum time_style timestamps;
	struct str tags;                /* a JSON object without blanks, or empty */
	const char *const *key_columns; /* of the message's key; none: the replica identity's */
	size_t nkey_columns;
	bool colour;                        /* pretty */
	const char *variant;                /* wal-listener: "" or "pgwalstreams" */
	bool recorded_at;                   /* pgevents */
	bool transactions;                  /* wal2json: show B and C */
	const struct header_style *headers; /* cloudevents: attributes are headers; NULL: they are not */
	/* debezium, see its file; NULL means the default */
	const char *decimal_mode, *time_precision, *interval_mode, *binary_mode, *hstore_mode;
};

struct format {
	const char *name;
	const char *help;        /* one line */
	bool shows_transactions; /* wants ACTION_BEGIN and ACTION_COMMIT around events */
	/* Where a message without a body deletes its key: a delete is followed by one, and a change
	 * of the key is a delete, one of these and an insert. */
	bool tombstones;
	/* Appends one message without a newline at its end and without any newline inside (pretty
	 * aside). Returns false and appends nothing when this format has nothing for the event. */
	bool (*event)(const struct encode_options *o, const struct event *e, struct strbuf *out);
	/* Appends what goes into the message's headers, NAME 0 VALUE 0 of each, where o->headers
	 * says how; NULL: nothing ever does. */
	void (*headers)(const struct encode_options *o, const struct event *e, struct strbuf *out);
	/* Appends the message's key (brokers that have one: the JSON of the replica identity), or
	 * NULL: encode_key. */
	void (*key)(const struct encode_options *o, const struct event *e, struct strbuf *out);
	/* Tables may lack the key_columns that are wanted. */
	bool any_key;
	/* The position that a message of this format carries, for outputs that read back where they
	 * stopped; NULL when it carries none. */
	bool (*position)(struct str message, struct position *p);
};

/* NULL-terminated. */
extern const struct format *const encode_formats[];

const struct format *encode_format(const char *name); /* NULL: unknown */

/* The value of column i in the message's key, or NULL when it is not part of it. */
const struct value *encode_key_value(const struct encode_options *o, const struct event *e,
				     uint32_t i);

/* The native key object {"id":1}; "{}" becomes nothing when the event has no key. */
void encode_key(const struct encode_options *o, const struct event *e, struct strbuf *out);

/* One per file. */
extern const struct format format_native, format_pretty, format_pgevents, format_wal_listener,
	format_wal2json, format_cloudevents, format_debezium;

/* Of lines that another part writes: outputs only need to know it by the id they begin with. */
extern const struct format format_dead_letter;

#endif
