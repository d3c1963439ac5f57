/*
 * The event store behind its two backends: PostgreSQL, where each function calls the SQL function
 * of its name (docs/store.md says what they do), and SQLite, where this program does the same work.
 * Both mean the same by the same call and refuse the same things for the same reason.
 *
 * A store is one connection, used by one thread at a time; several executors have a store each. It
 * is connected when it is first used, and again when the connection was lost.
 */
#ifndef PGHERALD_STORE_H
#define PGHERALD_STORE_H

#include "base/err.h"
#include "base/mem.h"
#include "base/strbuf.h"

/* Why the store refused: the number of SQLSTATE PH00N in docs/store.md. */
enum store_reason {
	STORE_NO_REASON, /* none of these: err says it */
	STORE_CONFLICT,
	STORE_ID_IN_USE,
	STORE_NOT_UNDERSTOOD,
	STORE_NOT_HERE,
	STORE_LEASE_LOST,
	STORE_NO_SUBSCRIPTION,
	STORE_DELETED,
};

struct store {
	const struct store_backend *backend;
	char *url;
	bool make;                  /* a file that is not there is made */
	const char *schema;         /* PostgreSQL only; set before the first call */
	const char *stream_id_type; /* likewise, for a store that is made: "text" or "uuid" */
	const _Atomic int *stop; /* answers are waited for a second more when it is set; may be NULL */
	void *state;             /* the backend's; NULL: not connected */
	struct dial *dial;       /* a connection that is being opened in the background */
	bool in_transaction;     /* between begin and commit or rollback */
	enum store_reason reason; /* of the last call that failed */
	int64_t expected, actual; /* versions, when it was a conflict */
};

/* Versions that append can expect, beside those of a stream. */
#define STORE_ANY INT64_MIN
#define STORE_NEW INT64_C(-1)

/* An event that was read. A snapshot has no type, and its state in data. */
struct store_event {
	int64_t position; /* 0: not committed yet, or of no interest */
	int64_t version;
	int64_t time; /* microseconds since 1970 UTC */
	const char *category, *stream, *id, *type;
	const char *topic;           /* NULL: none */
	const char *data, *metadata; /* JSON on one line */
};

/* Events that were read together; they live until the page is read into again or released. A zeroed
 * struct is an empty page. */
struct store_page {
	struct store_event *events;
	size_t n;
	size_t cap;
	struct arena text;
	void *result; /* the backend's */
	void (*clear)(void *result);
};

/* What to read: the feed behind a position, or one stream between two versions, both included. */
struct store_query {
	const char *category, *stream; /* one stream, when there is a stream */
	int64_t from, to; /* a position (to is not looked at), or versions; to -1: the end */
	int max;
	bool backward;
	const char *categories, *topics, *types; /* of the feed, with commas between; NULL: all */
};

struct store_appended {
	int64_t first, last; /* versions; first is -1 when there was nothing to append */
	bool duplicate;      /* these events were there already */
};

struct store_counts {
	int64_t appended, duplicates;
};

struct store_subscription {
	const char *name;
	const char *source;     /* JSON, as herald.subscribe takes it; NULL: as it is, or all */
	int partitions;         /* 0: as it is, or one */
	const char *start;      /* "beginning", "end" or a position */
	const char *on_failure; /* NULL: as it is */
	int max_attempts;       /* 0: as it is */
	int64_t backoff_ms;     /* 0: as it is */
};

struct store_lease {
	const char *name;
	int partition, partitions; /* which one, of how many */
	int64_t token;
	int64_t position; /* everything up to here was done when it was claimed */
};

struct store_identity {
	uint64_t id;  /* of the server's files, or the store's own */
	int64_t last; /* the last position that was handed out */
	uint32_t server_version;
	char name[64]; /* of the database */
};

enum store_outcome { STORE_RETRIES, STORE_STOPPED, STORE_PARKED };

/* Rows for people and programs: names and texts, NULL for null. Non-zero ends the list. */
typedef int store_row_fn(void *user, int n, const char *const *names, const char *const *values);

enum store_list {
	STORE_CHECK,       /* check, ok ("t" or "f"), mend */
	STORE_STATS,       /* name, value */
	STORE_LAG,         /* of each partition of each subscription */
	STORE_PARKED_LIST, /* of the subscription that is named */
	STORE_N_LISTS
};

/* All return 0, or -1 with err and the store's reason; some say 1 for "yes" and 0 for "no". Strings
 * that go in are borrowed for the call. Outside of a transaction each call is one of its own. */
struct store_backend {
	int (*open)(struct store *s, struct err *err);
	int (*dial)(struct store *s, int wake, struct err *err); /* as store_connect; may be NULL */
	void (*hang_up)(struct store *s);
	void (*close)(struct store *s);
	bool (*broken)(struct store *s);  /* the connection is of no use any more */
	void *(*handle)(struct store *s); /* PGconn * or sqlite3 * */

	int (*init)(struct store *s, int *applied, int *version, struct err *err);
	int (*identify)(struct store *s, struct store_identity *is, struct err *err);
	int (*list)(struct store *s, enum store_list what, const char *name, store_row_fn *fn,
		    void *user, struct err *err);

	int (*begin)(struct store *s, struct err *err);
	int (*commit)(struct store *s, struct err *err);
	int (*rollback)(struct store *s, struct err *err);

	int (*append)(struct store *s, const char *category, const char *stream, const char *events,
		      int64_t expected, struct store_appended *done, struct err *err);
	int (*append_many)(struct store *s, const char *events, const char *category,
			   const char *stream, struct store_counts *done, struct err *err);
	int (*read)(struct store *s, const struct store_query *q, struct store_page *page,
		    struct err *err);
	int (*end)(struct store *s, int64_t *position, struct err *err); /* of what can be read */
	/* *version: of the stream, also where its last events are gone; -1: there is none */
	int (*load)(struct store *s, const char *category, const char *stream,
		    struct store_page *page, int64_t *version, struct err *err);
	int (*snapshot)(struct store *s, const char *category, const char *stream, int64_t version,
			const char *state, struct err *err); /* 0: there is a later one */

	int (*subscribe)(struct store *s, const struct store_subscription *sub, struct err *err);
	int (*unsubscribe)(struct store *s, const char *name, struct err *err);
	int (*claim)(struct store *s, const char *owner, int64_t lease_ms, struct store_lease *lease,
		     struct err *err); /* of lease->name; 0: there is nothing to do */
	/* Everything up to `done` is acknowledged first; -1: nothing. */
	int (*fetch)(struct store *s, const struct store_lease *lease, int64_t done, int max,
		     struct store_page *page, struct err *err);
	int (*ack)(struct store *s, const struct store_lease *lease, int64_t position,
		   struct err *err);
	int (*renew)(struct store *s, const struct store_lease *lease, struct err *err);
	int (*release)(struct store *s, const struct store_lease *lease, struct err *err);
	int (*fail)(struct store *s, const struct store_lease *lease, int64_t position,
		    const char *why, enum store_outcome *outcome, struct err *err);
	int (*resume)(struct store *s, const char *name, int64_t *resumed, struct err *err);
	int (*parked_next)(struct store *s, const char *name, struct store_page *page,
			   struct err *err); /* in a transaction, which holds it */
	int (*parked_done)(struct store *s, const char *name, int64_t position, struct err *err);

	/* Waking: listen asks for it; *socket is to be polled, or -1 where there is none. sleep
	 * says before each pause that there is somebody to be woken, and lowers *ms to how long
	 * that may be at most. drain takes in what woke us and says whether something did, which
	 * may have come with the answer to another call. */
	int (*listen)(struct store *s, int *socket, struct err *err);
	int (*sleep)(struct store *s, const char *name, int64_t *ms, struct err *err);
	bool (*drain)(struct store *s);

	int (*retain)(struct store *s, const char *category, int64_t max_age_s, int64_t max_count,
		      struct err *err); /* 0: no limit */
	int (*purge)(struct store *s, int max, bool force, int64_t *removed, struct err *err);
	int (*truncate)(struct store *s, const char *category, const char *stream, int64_t before,
			int64_t *removed, struct err *err);
	int (*remove)(struct store *s, const char *category, const char *stream, int64_t *removed,
		      struct err *err);
	int (*redact)(struct store *s, int64_t position, const char *data, struct err *err);
};

extern const struct store_backend store_postgres, store_sqlite;

/* A store for sqlite:PATH, sqlite::memory: (all stores of the process share it while one of them is
 * open), or whatever libpq takes. Nothing is connected yet. CONFIG where this build has no SQLite. */
int store_init(struct store *s, const char *url, struct err *err) MUST_CHECK;
void store_release(struct store *s);    /* rolls back what is open */
void store_disconnect(struct store *s); /* likewise; the next call connects again */

/* Makes the store or brings it up to date: it has this version now, and so many migrations were
 * missing. */
int store_make(struct store *s, int *applied, int *version, struct err *err) MUST_CHECK;

/* Connects without waiting for it: 1 it is connected; 0 not yet: the eventfd `wake` is written to
 * when this is to be called again; -1. */
int store_connect(struct store *s, int wake, struct err *err) MUST_CHECK;

/* store_call(s, err, append, ...): a function of the backend, connected first, and afterwards
 * disconnected where the connection broke. */
#define store_call(s, err, function, ...)                                                          \
	(store_ready((s), (err))                                                                   \
		 ? -1                                                                              \
		 : store_done((s), (s)->backend->function((s), ##__VA_ARGS__, (err))))
int store_ready(struct store *s, struct err *err) MUST_CHECK;
int store_done(struct store *s, int result);

/* Transactions: what is between them is one, also what the caller does on the handle. A call that
 * fails leaves nothing but rollback. */
int store_begin(struct store *s, struct err *err) MUST_CHECK;
int store_commit(struct store *s, struct err *err) MUST_CHECK;
void store_rollback(struct store *s);

/* CONFIG where there is none of this name. */
int store_check_subscription(struct store *s, const char *name, struct err *err) MUST_CHECK;

/* Fails with a reason: FAIL, since trying the same again brings the same. */
int store_refuse(struct store *s, enum store_reason reason, struct err *err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Lets the query go on behind a page. */
void store_query_advance(struct store_query *q, const struct store_page *page);

/* For backends: an empty page; its next event, zeroed. */
void store_page_clear(struct store_page *page);
struct store_event *store_page_add(struct store_page *page);
void store_page_release(struct store_page *page);

/* Appends the event as one line of JSON, without a newline. */
void store_event_json(struct strbuf *b, const struct store_event *e);

/* "a,b" as ["a","b"]. */
void store_names_json(struct strbuf *b, const char *names);

#endif
