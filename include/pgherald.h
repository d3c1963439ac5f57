/*
 * libpgherald: PostgreSQL's committed row changes, as callbacks in your program.
 *
 *	#include <pgherald.h>
 *
 *	static enum herald_answer on_user(void *user, const struct herald_event *e)
 *	{
 *		int name = herald_column(e, "name");
 *
 *		printf("%s signed up\n", herald_text(e, HERALD_NEW, name, NULL));
 *		return HERALD_TAKEN;
 *	}
 *
 *	struct herald_stream *s = herald_stream_new();
 *	herald_stream_set(s, "connection", "dbname=app");
 *	herald_stream_on(s, HERALD_INSERT, "public.users", on_user, NULL);
 *	if (herald_stream_run(s))
 *		fprintf(stderr, "%s\n", herald_stream_error(s));
 *	herald_stream_free(s);
 *
 * Delivery: an event that was answered HERALD_TAKEN (or acknowledged) is confirmed to PostgreSQL
 * and not sent again; everything else comes again after a restart, with the same id. Events come
 * in commit order. What is not taken stays in the replication slot, which is never dropped.
 *
 * A stream is used by one thread at a time; only herald_stream_stop may be called from others and
 * from signal handlers. Several streams are independent. Connections that break are mended inside;
 * functions fail only when trying again would not help. Nothing is written to standard error unless
 * "log-level" is set to "info" or "warn". When memory runs out the library aborts the process: the
 * slot makes that safe.
 */
#ifndef PGHERALD_H
#define PGHERALD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HERALD_API __attribute__((visibility("default")))
#else
#define HERALD_API
#endif

/* "1.2.3": the version of the library that runs. */
HERALD_API const char *herald_version(void);

/* ---- a stream ---- */

struct herald_stream;
struct herald_event;

enum herald_action {
	HERALD_INSERT = 1 << 0,
	HERALD_UPDATE = 1 << 1,
	HERALD_DELETE = 1 << 2,
	HERALD_TRUNCATE = 1 << 3,
	HERALD_MESSAGE = 1 << 4, /* pg_logical_emit_message */
	HERALD_EVENT = 1 << 5,   /* of the event store; its columns are those of the view event */
	HERALD_ALL = (1 << 6) - 1,
};

enum herald_answer {
	HERALD_TAKEN, /* done with; may be confirmed */
	HERALD_LATER, /* herald_stream_acknowledge will say so */
	HERALD_STOP,  /* not taken: end the stream; the event comes again next time */
};

/* Where an event stands in the order of all events. Compare lsn, then ordinal. */
struct herald_position {
	uint64_t lsn;     /* of the transaction's commit */
	uint32_t ordinal; /* of the change in its transaction, from 1 */
};

/* The event and all that is read from it live until the callback returns. */
typedef enum herald_answer herald_event_fn(void *user, const struct herald_event *event);

/* A stream with default settings. The caller ends it with herald_stream_free. */
HERALD_API struct herald_stream *herald_stream_new(void);

/* Ends the stream in order and frees it: what was taken is confirmed. NULL is nothing. */
HERALD_API void herald_stream_free(struct herald_stream *s);

/* Sets what `pgherald stream` knows as a flag, by the flag's name without dashes: "connection"
 * (a libpq conninfo), "slot", "publication", "temporary" ("true"), "tables", "to" (adds an output
 * that gets events beside the callbacks) and so on. "config" reads a file. Before the first step.
 * Returns 0, or -1 for an unknown name or a bad value. */
HERALD_API int herald_stream_set(struct herald_stream *s, const char *name, const char *value);

/* Calls fn for each event of these actions (or'ed) on tables that match: "schema.table" with *
 * and ?, a name with dots or capitals in double quotes as in SQL. Messages have no table: any
 * pattern gets them. Several callbacks may want one event; they are called in the order they were
 * registered, and it is taken when all have said so. Before the first step. Returns 0, or -1 for
 * a bad pattern. */
HERALD_API int herald_stream_on(struct herald_stream *s, unsigned actions, const char *pattern,
				herald_event_fn *fn, void *user);

/* Runs until herald_stream_stop, HERALD_STOP or the end that was set ("until", "limit").
 * Returns 0, or -1 when the stream cannot go on. */
HERALD_API int herald_stream_run(struct herald_stream *s);

/* For programs with an event loop: herald_stream_fd is readable (poll, epoll) when
 * herald_stream_step has something to do. A step waits up to timeout_ms (0: not at all, -1: as
 * long as needed) and returns 0 to go on, 1 when the end is reached, -1 when the stream cannot go
 * on. Connecting may block a step for up to the connection's connect_timeout.
 * herald_stream_fd returns -1 when the settings are not usable; see herald_stream_error. */
HERALD_API int herald_stream_fd(struct herald_stream *s);
HERALD_API int herald_stream_step(struct herald_stream *s, int timeout_ms);

/* Asks the stream to end after the transaction in flight. From any thread or signal handler. */
HERALD_API void herald_stream_stop(struct herald_stream *s);

/* All events up to and including this one that were answered HERALD_LATER are taken. */
HERALD_API void herald_stream_acknowledge(struct herald_stream *s, struct herald_position position);

/* What went wrong last, for people; "" when nothing did. Lives until the next call. */
HERALD_API const char *herald_stream_error(const struct herald_stream *s);

/* ---- an event ---- */

HERALD_API enum herald_action herald_action(const struct herald_event *e);
HERALD_API const char *herald_action_name(const struct herald_event *e); /* "insert" */
HERALD_API struct herald_position herald_position(const struct herald_event *e);

/* "000000000153A978-00000003": the same on each replay; text order is event order. */
#define HERALD_ID_SIZE 26
HERALD_API const char *herald_id(const struct herald_event *e, char buf[HERALD_ID_SIZE]);

HERALD_API uint32_t herald_xid(const struct herald_event *e); /* 0: outside of transactions */
HERALD_API int64_t herald_time(const struct herald_event *e); /* commit, µs since 1970 UTC */
HERALD_API const char *herald_database(const struct herald_event *e);

/* "" for a message. */
HERALD_API const char *herald_schema(const struct herald_event *e);
HERALD_API const char *herald_table(const struct herald_event *e);

/* The event as one native JSON object. *n gets its length when n is not NULL. */
HERALD_API const char *herald_json(const struct herald_event *e, size_t *n);

/* A message's prefix and content; content may hold any bytes. "" for other events. */
HERALD_API const char *herald_prefix(const struct herald_event *e);
HERALD_API const char *herald_content(const struct herald_event *e, size_t *n);

/* ---- values ---- */

enum herald_side { HERALD_NEW, HERALD_OLD };

enum herald_kind {
	HERALD_ABSENT, /* no such row or column here: no old row was sent, or only its key */
	HERALD_NULL,
	HERALD_UNCHANGED, /* a large value that was not sent because it did not change */
	HERALD_BOOL,
	HERALD_INTEGER, /* smallint, integer, bigint: fits int64_t */
	HERALD_NUMERIC, /* any number of digits: read it as text */
	HERALD_FLOAT,
	HERALD_TIME,  /* date, timestamp, timestamptz */
	HERALD_BYTES, /* bytea */
	HERALD_JSON,  /* json, jsonb */
	HERALD_TEXT,  /* all others, as PostgreSQL writes them */
};

HERALD_API int herald_columns(const struct herald_event *e);
HERALD_API const char *herald_column_name(const struct herald_event *e, int column);
HERALD_API const char *herald_column_type(const struct herald_event *e, int column);
HERALD_API int herald_column_is_key(const struct herald_event *e, int column);

/* The column's number, or -1, which all functions below take for a column that is absent. */
HERALD_API int herald_column(const struct herald_event *e, const char *name);

HERALD_API enum herald_kind herald_kind(const struct herald_event *e, enum herald_side side,
					int column);

/* PostgreSQL's text form, NUL-terminated; *n gets its length when n is not NULL. NULL when the
 * value is null, unchanged or absent. */
HERALD_API const char *herald_text(const struct herald_event *e, enum herald_side side, int column,
				   size_t *n);

/* These return 0, or -1 when the value is not of the kind named or does not fit. */
HERALD_API int herald_int64(const struct herald_event *e, enum herald_side side, int column,
			    int64_t *value);
HERALD_API int herald_double(const struct herald_event *e, enum herald_side side, int column,
			     double *value); /* INTEGER, NUMERIC, FLOAT: nearest double */
HERALD_API int herald_bool(const struct herald_event *e, enum herald_side side, int column,
			   int *value);
HERALD_API int herald_time_us(const struct herald_event *e, enum herald_side side, int column,
			      int64_t *value); /* TIME: µs since 1970; infinity does not fit */
/* BYTES: decoded, living as long as the event; *n gets their number. NULL on failure. */
HERALD_API const unsigned char *herald_bytes(const struct herald_event *e, enum herald_side side,
					     int column, size_t *n);

#ifdef __cplusplus
}
#endif

#endif
