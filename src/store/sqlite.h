/*
 * The event store in a SQLite file. One process writes at a time, so an event's position is its
 * rowid and the order of positions is the order of commits; AUTOINCREMENT lets none be used twice.
 * The tables begin with herald_ and may live in the application's own file.
 *
 * sqlite.c has the connection and the calls below; the others have the store's functions.
 */
#ifndef PGHERALD_STORE_SQLITE_H
#define PGHERALD_STORE_SQLITE_H

#include "store/store.h"

#include <sqlite3.h>

/* Runs SQL up to its first row: 1 there is one, 0 there is none, -1. Parameters as `types` says: s
 * a text (NULL: null), t a struct str * (.p NULL: null), i an int64_t, b 16 bytes. SQL is a
 * literal: statements are kept by its address. Where there is a row the statement is read on with
 * sqlite_more, or left with sqlite3_reset. */
int sqlite_ask(struct store *s, struct err *err, sqlite3_stmt **row, const char *sql,
	       const char *types, ...) MUST_CHECK;
int sqlite_more(struct store *s, sqlite3_stmt *row, struct err *err) MUST_CHECK;

/* The same for SQL that yields nothing, or whose first row's first column is wanted (value may be
 * NULL). -1 on failure, else whether there was a row. */
int sqlite_run(struct store *s, struct err *err, int64_t *value, const char *sql, const char *types,
	       ...) MUST_CHECK;

/* A transaction, or a savepoint in that of the caller. leave ends it, in favour or not, and returns
 * result, or -1 if that failed. */
int sqlite_enter(struct store *s, struct err *err) MUST_CHECK;
int sqlite_leave(struct store *s, int result, struct err *err) MUST_CHECK;

/* Rows changed by the last statement. */
int64_t sqlite_changed(struct store *s);

/* Key of the row that was inserted last. */
int64_t sqlite_inserted(struct store *s);

/* The columns of queries that yield events, and how one is put into a page. e is herald_event, s
 * its stream. */
#define SQLITE_COLUMNS                                                                             \
	"e.position, e.version, e.time, s.category, s.id, e.id, e.type, e.topic, e.data,"          \
	" coalesce(e.metadata, '{}')"
void sqlite_read_take(struct store_page *page, sqlite3_stmt *row);

/* The end of the feed. */
int sqlite_read_end(struct store *s, int64_t *position, struct err *err) MUST_CHECK;

/* Number of a stream, 0: there is none. */
int sqlite_read_stream(struct store *s, const char *category, const char *stream, int64_t *number,
		       struct err *err) MUST_CHECK;

/* sqlite_append.c and the others: see struct store_backend */
int sqlite_read_events(struct store *s, const struct store_query *q, struct store_page *page,
		       struct err *err);
int sqlite_read_load(struct store *s, const char *category, const char *stream,
		     struct store_page *page, int64_t *version, struct err *err);

int sqlite_append(struct store *s, const char *category, const char *stream, const char *events,
		  int64_t expected, struct store_appended *done, struct err *err);
int sqlite_append_many(struct store *s, const char *events, const char *category,
		       const char *stream, struct store_counts *done, struct err *err);

int sqlite_subscription_make(struct store *s, const struct store_subscription *sub, struct err *err);
int sqlite_subscription_drop(struct store *s, const char *name, struct err *err);
int sqlite_subscription_claim(struct store *s, const char *owner, int64_t lease_ms,
			      struct store_lease *lease, struct err *err);
int sqlite_subscription_fetch(struct store *s, const struct store_lease *lease, int64_t done,
			      int max, struct store_page *page, struct err *err);
int sqlite_subscription_ack(struct store *s, const struct store_lease *lease, int64_t position,
			    struct err *err);
int sqlite_subscription_renew(struct store *s, const struct store_lease *lease, struct err *err);
int sqlite_subscription_release(struct store *s, const struct store_lease *lease, struct err *err);
int sqlite_subscription_fail(struct store *s, const struct store_lease *lease, int64_t position,
			     const char *why, enum store_outcome *outcome, struct err *err);
int sqlite_subscription_resume(struct store *s, const char *name, int64_t *resumed, struct err *err);
int sqlite_parked_next(struct store *s, const char *name, struct store_page *page, struct err *err);
int sqlite_parked_done(struct store *s, const char *name, int64_t position, struct err *err);

int sqlite_retention_snapshot(struct store *s, const char *category, const char *stream,
			      int64_t version, const char *state, struct err *err);
int sqlite_retention_retain(struct store *s, const char *category, int64_t max_age_s,
			    int64_t max_count, struct err *err);
int sqlite_retention_purge(struct store *s, int max, bool force, int64_t *removed, struct err *err);
int sqlite_retention_truncate(struct store *s, const char *category, const char *stream,
			      int64_t before, int64_t *removed, struct err *err);
int sqlite_retention_remove(struct store *s, const char *category, const char *stream,
			    int64_t *removed, struct err *err);
int sqlite_retention_redact(struct store *s, int64_t position, const char *data, struct err *err);

#endif
