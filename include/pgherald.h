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
 * on. Neither connecting (a thread may be left behind that it does hold up, until the connection's
 * connect_timeout) nor creating the slot, which waits for transactions that are open, holds a step
 * up; questions to a server that has fallen silent do for up to 30 s. Behind a backlog a step
 * pauses for up to 40 ms, to find many rows at once.
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

/* ---- the event store ---- */

/*
 * Events that the application writes itself, in streams, in PostgreSQL or SQLite; both behave alike.
 *
 *	struct herald_store *s = herald_store_open("sqlite:shop.db");
 *	herald_store_init(s);
 *	herald_store_append(s, "order", "42", "{\"type\": \"Placed\"}", HERALD_NEW_STREAM, NULL);
 *
 * A store is one connection, used by one thread at a time; each thread and each executor of a
 * subscription has its own. Functions return 0, or -1: herald_store_problem and herald_store_error
 * say why. Where a connection was lost, the call that met it fails with HERALD_AWAY, and the next
 * one opens another.
 */
struct herald_store;

enum herald_problem {
	HERALD_NO_PROBLEM,
	HERALD_CONFLICT,        /* the stream is at another version than expected */
	HERALD_ID_IN_USE,       /* another event has the id */
	HERALD_NOT_UNDERSTOOD,  /* an argument, or JSON, cannot be understood */
	HERALD_NOT_HERE,        /* the feed cannot be read on a standby */
	HERALD_LEASE_LOST,      /* another executor has taken over */
	HERALD_NO_SUBSCRIPTION, /* there is none of this name, or it has another source */
	HERALD_DELETED,         /* the stream was deleted */
	HERALD_AWAY,            /* the database cannot be reached now, or is busy: try again */
	HERALD_REFUSED,         /* all else: herald_store_error has the text */
};

/* For sqlite:PATH, sqlite::memory: (which all stores of this process share, as long as one of them
 * is open), or a libpq conninfo. Nothing is connected yet. Never NULL. */
HERALD_API struct herald_store *herald_store_open(const char *url);

/* Rolls back what is open. NULL is nothing. */
HERALD_API void herald_store_close(struct herald_store *s);

/* Of the last call that failed. The text lives until the next call. */
HERALD_API enum herald_problem herald_store_problem(const struct herald_store *s);
HERALD_API const char *herald_store_error(const struct herald_store *s);

/* When it was HERALD_CONFLICT: the stream's version, -1 when it does not exist. */
HERALD_API int64_t herald_store_actual(const struct herald_store *s);

/* "schema" and, for a store that is made, "stream-id-type" ("text" or "uuid"): PostgreSQL's, as
 * `pgherald store init` knows them. Before the first call. */
HERALD_API int herald_store_set(struct herald_store *s, const char *name, const char *value);

/* Makes the store's tables or brings them up to date; does nothing where they are. */
HERALD_API int herald_store_init(struct herald_store *s);

/* The connection, a PGconn * or sqlite3 *, to work on in the store's transactions: it stays the
 * store's. NULL when it cannot be opened. */
HERALD_API void *herald_store_connection(struct herald_store *s);

/* What is between begin and commit is one transaction, on this store and on its connection. When a
 * call fails in it, roll back. When commit fails nothing of it is done, unless the problem is
 * HERALD_AWAY: then it is not known. Without a transaction each call is one. */
HERALD_API int herald_store_begin(struct herald_store *s);
HERALD_API int herald_store_commit(struct herald_store *s);
HERALD_API void herald_store_rollback(struct herald_store *s);

#define HERALD_ANY_VERSION INT64_MIN
#define HERALD_NEW_STREAM INT64_C(-1)

struct herald_appended {
	int64_t first, last; /* versions; first is -1 when there was nothing to append */
	int duplicate;       /* the same events, by their ids, were there already */
};

/* Appends events to the end of a stream: one JSON object or an array of {"type", "data",
 * "metadata", "id", "topic"}, of which the type is required. expected: the version that the stream
 * must have, HERALD_NEW_STREAM: none yet, HERALD_ANY_VERSION. done may be NULL. */
HERALD_API int herald_store_append(struct herald_store *s, const char *category, const char *stream,
				   const char *events, int64_t expected,
				   struct herald_appended *done);

/* Appends events of any streams in one transaction, each with "category" and "stream". */
HERALD_API int herald_store_append_many(struct herald_store *s, const char *events);

/* An event that was read. All lives until the callback returns. */
struct herald_stored {
	int64_t position; /* its place in the feed; 0: not known, or not committed yet */
	int64_t version;  /* its place in its stream, from 0 */
	int64_t time;     /* microseconds since 1970 UTC */
	const char *category, *stream, *id;
	const char *type;            /* NULL: this is a snapshot, whose state is in data */
	const char *topic;           /* NULL: none */
	const char *data, *metadata; /* JSON on one line */
};

/* Not 0: that is enough. */
typedef int herald_stored_fn(void *user, const struct herald_stored *e);

/* What of the feed is wanted; zeroed: all. Names have commas between them, NULL: any. */
struct herald_wanted {
	int64_t after; /* behind this position */
	int64_t limit; /* the most events; 0: no limit */
	const char *categories, *topics, *types;
};

/* Calls fn for each event of the feed, in order. Who keeps the position of the last event goes on
 * there the next time, and misses none. */
HERALD_API int herald_store_read(struct herald_store *s, const struct herald_wanted *wanted,
				 herald_stored_fn *fn, void *user);

struct herald_versions {
	int64_t from, to; /* both included; to -1: the last */
	int backward;     /* the last comes first */
};

/* Calls fn for each event of a stream, also those of the open transaction. versions NULL: all. */
HERALD_API int herald_store_read_stream(struct herald_store *s, const char *category,
					const char *stream, const struct herald_versions *versions,
					herald_stored_fn *fn, void *user);

/* ---- aggregates ---- */

/* Calls fold for the stream's snapshot, if there is one (it has no type), and for the events behind
 * it. *version gets the stream's version, also where its events were removed; -1: there is no such
 * stream. Not 0 from fold is a failure. */
HERALD_API int herald_store_load(struct herald_store *s, const char *category, const char *stream,
				 herald_stored_fn *fold, void *state, int64_t *version);

/* Stores the state that a stream's events up to a version make, as JSON, for load. */
HERALD_API int herald_store_snapshot(struct herald_store *s, const char *category,
				     const char *stream, int64_t version, const char *state);

struct herald_aggregate {
	void (*reset)(void *state); /* as before the first event */
	herald_stored_fn *fold;     /* what an event does to the state */
	/* The events that follow from a command in this state, as JSON for append, which lives
	 * until the next call; NULL: none. */
	const char *(*decide)(void *state, void *command);
};

/* Loads, decides and appends, and does it all again where somebody else has appended meanwhile.
 * In an open transaction it does it once. done may be NULL. */
HERALD_API int herald_store_save(struct herald_store *s, const char *category, const char *stream,
				 const struct herald_aggregate *a, void *state, void *command,
				 struct herald_appended *done);

/* ---- events that go ---- */

/* How long events of a category are kept; 0: for ever. */
HERALD_API int herald_store_retain(struct herald_store *s, const char *category, int64_t max_age_s,
				   int64_t max_count);

/* Removes a batch of those that are not kept; *removed is 0 when there are none. Never what a
 * subscription has still to see, unless forced. */
HERALD_API int herald_store_purge(struct herald_store *s, int max, int force, int64_t *removed);

HERALD_API int herald_store_truncate(struct herald_store *s, const char *category,
				     const char *stream, int64_t before_version);
HERALD_API int herald_store_delete(struct herald_store *s, const char *category,
				   const char *stream); /* for good */
HERALD_API int herald_store_redact(struct herald_store *s, int64_t position, const char *data);

/* ---- subscriptions ---- */

/*
 * A subscription has a name, a source and a place in the feed. Each of these is an executor of it:
 * several, in threads or processes, share its partitions, and a stream's events stay in order.
 *
 *	struct herald_subscription *m = herald_subscription_new("dbname=shop", "mailer");
 *	herald_subscription_set(m, "categories", "order");
 *	herald_subscription_on(m, handle, NULL);
 *	if (herald_subscription_run(m))
 *		fprintf(stderr, "%s\n", herald_subscription_error(m));
 *	herald_subscription_free(m);
 */
struct herald_subscription;

/* Works on one event. `transaction` is the open transaction, a PGconn * or sqlite3 *: what is done
 * on it commits together with the subscription's place, exactly once; do not end it. All other
 * effects may happen again, after a crash, or when a later event of the batch fails. Returns NULL:
 * it is done, or why not: it is tried again after a while, then stopped or parked (on-failure). */
typedef const char *herald_handler(void *user, const struct herald_stored *e, void *transaction);

HERALD_API struct herald_subscription *herald_subscription_new(const char *url, const char *name);

/* Gives back what it has claimed. NULL is nothing. */
HERALD_API void herald_subscription_free(struct herald_subscription *m);

/* Before the first step. Source, of a subscription that is made by its first executor:
 * "categories", "topics", "types" (names with commas between), or "category" and "stream". "start":
 * beginning, end or a position. "partitions": how many executors can work at once (1).
 * "on-failure": stop, park or park-stream; "max-attempts" (5), "backoff" (1000 ms, doubled each
 * time). Of this executor: "owner", its name; "lease" (30000 ms), after which another may take
 * over; "batch" (100), the most events of one transaction; "max-sleep" (100 ms) between looks;
 * "listen" (true): be woken where the database can; "schema". */
HERALD_API int herald_subscription_set(struct herald_subscription *m, const char *name,
				       const char *value);
HERALD_API void herald_subscription_on(struct herald_subscription *m, herald_handler *fn, void *user);

/* As those of a stream, above; connecting does not hold a step up either. A step handles one batch
 * at most. */
HERALD_API int herald_subscription_run(struct herald_subscription *m);
HERALD_API int herald_subscription_fd(struct herald_subscription *m);
HERALD_API int herald_subscription_step(struct herald_subscription *m, int timeout_ms);
HERALD_API void herald_subscription_stop(struct herald_subscription *m);
HERALD_API const char *herald_subscription_error(const struct herald_subscription *m);

/* Lets partitions that have stopped try again. */
HERALD_API int herald_subscription_resume(struct herald_subscription *m);

struct herald_lag {
	int64_t behind; /* positions of the feed, of the partition that is furthest behind */
	int64_t parked; /* events */
	int stopped;    /* partitions */
};

/* How far the subscription is. Zero where there is none. */
HERALD_API int herald_subscription_lag(struct herald_subscription *m, struct herald_lag *lag);

/* Removes the subscription with its place and what it has parked; nothing where there is none. */
HERALD_API int herald_subscription_drop(struct herald_subscription *m);

/* Lets the handler work on parked events until one fails or none is left; *done counts them. */
HERALD_API int herald_subscription_retry_parked(struct herald_subscription *m, int64_t *done);

#ifdef __cplusplus
}
#endif

#endif
