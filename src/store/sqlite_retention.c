/* Snapshots, and events that go, in SQLite: what src/store/sql/003-retention.sql does. */
#include "base/clock.h"
#include "base/json.h"
#include "store/sqlite.h"

#include <inttypes.h>

static int snapshot(struct store *s, const char *category, const char *stream, int64_t version,
		    const char *state, struct err *err)
{
	int64_t number;
	int found = sqlite_run(s, err, &number,
			       "SELECT number FROM herald_stream WHERE category = ? AND id = ?"
			       " AND NOT deleted AND version >= ?",
			       "ssi", category, stream, version);

	if (found < 0)
		return -1;
	if (!found || version < 0)
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err, "%s/%s has no version %" PRId64,
				    category, stream, version);
	if (sqlite_run(
		    s, err, NULL,
		    "INSERT INTO herald_snapshot (stream_number, version, time, state)"
		    " VALUES (?, ?, ?, ?) ON CONFLICT (stream_number) DO UPDATE"
		    " SET version = excluded.version, time = excluded.time, state = excluded.state"
		    " WHERE version <= excluded.version",
		    "iiis", number, version, clock_wall_us(), state))
		return -1;
	return sqlite_changed(s) != 0;
}

int sqlite_retention_snapshot(struct store *s, const char *category, const char *stream,
			      int64_t version, const char *state, struct err *err)
{
	struct strbuf line = { 0 };
	int result;

	if (!json_storable(str_c(state)))
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err, "the state is no JSON");
	json_compact(&line, str_c(state));
	result = sqlite_enter(s, err);
	if (!result)
		result = sqlite_leave(
			s, snapshot(s, category, stream, version, strbuf_cstr(&line), err), err);
	strbuf_release(&line);
	return result;
}

int sqlite_retention_retain(struct store *s, const char *category, int64_t max_age_s,
			    int64_t max_count, struct err *err)
{
	if (!max_age_s && !max_count)
		return sqlite_run(s, err, NULL, "DELETE FROM herald_retention WHERE category = ?",
				  "s", category);
	return sqlite_run(s, err, NULL,
			  "INSERT INTO herald_retention (category, max_age, max_count)"
			  " VALUES (?, nullif(?, 0), nullif(?, 0)) ON CONFLICT DO UPDATE SET"
			  " max_age = excluded.max_age, max_count = excluded.max_count,"
			  " aged_position = 0, counted_position = 0",
			  "sii", category, max_age_s * 1000000, max_count);
}

/* ---- purging ---- */

/* Positions of events that are to go, as JSON for json_each. */
struct old {
	struct strbuf json;
	int64_t n;
};

static void old_add(struct old *o, int64_t position)
{
	strbuf_printf(&o->json, "%c%" PRId64, o->n++ ? ',' : '[', position);
}

/* Removes them, and from what was put aside too. In a transaction. */
static int remove_old(struct store *s, struct old *o, int64_t *removed, struct err *err)
{
	if (!o->n)
		return 0;
	strbuf_ch(&o->json, ']');
	if (sqlite_run(s, err, NULL,
		       "DELETE FROM herald_parked WHERE position IN"
		       " (SELECT value FROM json_each(?))",
		       "s", strbuf_cstr(&o->json)) ||
	    sqlite_run(
		    s, err, NULL,
		    "DELETE FROM herald_event WHERE position IN (SELECT value FROM json_each(?))",
		    "s", strbuf_cstr(&o->json)))
		return -1;
	*removed += sqlite_changed(s);
	return 0;
}

struct rule {
	struct strbuf category;
	int64_t max_age, max_count; /* 0: none */
	int64_t aged, counted;      /* where the next looks begin */
};

/* What one call of purge may do. */
struct limits {
	int64_t slowest; /* the last position that may go */
	int64_t horizon; /* the last of all */
	int64_t max;     /* so many at most */
};

/* The rule behind this category; 0: that was the last one. */
static int next_rule(struct store *s, struct rule *r, struct err *err)
{
	sqlite3_stmt *row;
	int found =
		sqlite_ask(s, err, &row,
			   "SELECT category, max_age, max_count, aged_position, counted_position"
			   " FROM herald_retention WHERE category > ? ORDER BY category LIMIT 1",
			   "s", strbuf_cstr(&r->category));

	if (found <= 0)
		return found;
	r->category.n = 0;
	strbuf_str(&r->category, str_c((const char *)sqlite3_column_text(row, 0)));
	strbuf_cstr(&r->category);
	r->max_age = sqlite3_column_int64(row, 1);
	r->max_count = sqlite3_column_int64(row, 2);
	r->aged = sqlite3_column_int64(row, 3);
	r->counted = sqlite3_column_int64(row, 4);
	sqlite3_reset(row);
	return 1;
}

/* The old ones, up to the first that is young enough; *looked: where the next look begins. */
static int find_aged(struct store *s, const struct rule *r, const struct limits *l, struct old *old,
		     int64_t *looked, struct err *err)
{
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row,
			       "SELECT e.position, e.time >= ?4 FROM herald_event e"
			       " CROSS JOIN herald_stream s ON s.number = e.stream_number"
			       " WHERE e.position > ?2 AND e.position <= ?3 AND s.category = ?1"
			       " ORDER BY e.position LIMIT ?5",
			       "siiii", r->category.p, r->aged, l->slowest,
			       clock_wall_us() - r->max_age, l->max);

	*looked = l->slowest;
	for (; found > 0; found = sqlite_more(s, row, err)) {
		int64_t position = sqlite3_column_int64(row, 0);

		if (sqlite3_column_int(row, 1)) {
			*looked = position - 1;
			sqlite3_reset(row);
			return 0;
		}
		old_add(old, position);
		if (old->n == l->max)
			*looked = position;
	}
	return found;
}

/* The same by count. Each event pushes out the one that is so many versions before it: so the work
 * is that of the events which have come since, however many streams there are. */
static int find_counted(struct store *s, const struct rule *r, const struct limits *l,
			struct old *old, int64_t *looked, struct err *err)
{
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row,
			       "SELECT e.position, o.position FROM herald_event e"
			       " CROSS JOIN herald_stream s ON s.number = e.stream_number"
			       " LEFT JOIN herald_event o ON o.stream_number = e.stream_number"
			       "  AND o.version = e.version - ?4"
			       " WHERE e.position > ?2 AND e.position <= ?3 AND s.category = ?1"
			       " AND e.version >= ?4 ORDER BY e.position",
			       "siii", r->category.p, r->counted, l->horizon, r->max_count);

	*looked = l->horizon;
	for (; found > 0; found = sqlite_more(s, row, err)) {
		int64_t position = sqlite3_column_int64(row, 0);
		int64_t pushed = sqlite3_column_int64(row, 1); /* 0: it is gone */

		if (pushed > l->slowest || old->n == l->max) {
			*looked = position - 1;
			sqlite3_reset(row);
			return 0;
		}
		if (pushed)
			old_add(old, pushed);
	}
	return found;
}

/* What was found goes, in a short transaction: writers wait for it. The look did not keep them
 * waiting; where the rule has changed meanwhile the next one begins anew. */
static int purge_found(struct store *s, const struct rule *r, bool by_age, struct old *old,
		       int64_t looked, int64_t *removed, struct err *err)
{
	int failed;

	if (!old->n && looked <= (by_age ? r->aged : r->counted))
		return 0;
	if (sqlite_enter(s, err))
		return -1;
	failed = remove_old(s, old, removed, err);
	if (!failed && by_age)
		failed = sqlite_run(s, err, NULL,
				    "UPDATE herald_retention SET aged_position = ?2"
				    " WHERE category = ?1 AND aged_position = ?3 AND max_age = ?4",
				    "siii", r->category.p, looked, r->aged, r->max_age);
	else if (!failed)
		failed = sqlite_run(
			s, err, NULL,
			"UPDATE herald_retention SET counted_position = ?2"
			" WHERE category = ?1 AND counted_position = ?3 AND max_count = ?4",
			"siii", r->category.p, looked, r->counted, r->max_count);
	return sqlite_leave(s, failed, err);
}

static int purge_by(struct store *s, const struct rule *r, bool by_age, struct limits l,
		    int64_t *removed, struct err *err)
{
	struct old old = { 0 };
	int64_t looked;
	int failed = 0;

	l.max -= *removed;
	if (l.max > 0 && (by_age ? r->max_age : r->max_count)) {
		failed = by_age ? find_aged(s, r, &l, &old, &looked, err)
				: find_counted(s, r, &l, &old, &looked, err);
		if (!failed)
			failed = purge_found(s, r, by_age, &old, looked, removed, err);
	}
	strbuf_release(&old.json);
	return failed;
}

static int find_slowest(struct store *s, struct limits *l, struct err *err)
{
	if (sqlite_read_end(s, &l->horizon, err))
		return -1;
	return sqlite_run(
		       s, err, &l->slowest,
		       "SELECT min(?1, coalesce((SELECT min(position) FROM herald_checkpoint), ?1),"
		       " coalesce((SELECT min(position) - 1 FROM herald_parked WHERE NOT done), "
		       "?1))",
		       "i", l->horizon) < 0
		       ? -1
		       : 0;
}

int sqlite_retention_purge(struct store *s, int max, bool force, int64_t *removed, struct err *err)
{
	struct limits l = { .max = max };
	struct rule r = { 0 };
	int found;

	*removed = 0;
	if (find_slowest(s, &l, err))
		return -1;
	if (force)
		l.slowest = l.horizon;
	while (*removed < max && (found = next_rule(s, &r, err)) != 0)
		if (found < 0 || purge_by(s, &r, true, l, removed, err) ||
		    purge_by(s, &r, false, l, removed, err)) {
			strbuf_release(&r.category);
			return -1;
		}
	strbuf_release(&r.category);
	return 0;
}

/* ---- what somebody asked to remove ---- */

static int cut(struct store *s, const char *category, const char *stream, int64_t before,
	       int64_t *removed, struct err *err)
{
	int64_t number;

	if (sqlite_read_stream(s, category, stream, &number, err))
		return -1;
	if (sqlite_run(s, err, NULL,
		       "DELETE FROM herald_parked WHERE position IN (SELECT position"
		       " FROM herald_event WHERE stream_number = ? AND version < ?)",
		       "ii", number, before) ||
	    sqlite_run(s, err, NULL,
		       "DELETE FROM herald_event WHERE stream_number = ? AND version < ?", "ii",
		       number, before))
		return -1;
	*removed = sqlite_changed(s);
	return 0;
}

int sqlite_retention_truncate(struct store *s, const char *category, const char *stream,
			      int64_t before, int64_t *removed, struct err *err)
{
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, cut(s, category, stream, before, removed, err), err);
}

static int remove_stream(struct store *s, const char *category, const char *stream,
			 int64_t *removed, struct err *err)
{
	int64_t number;

	*removed = 0;
	if (sqlite_read_stream(s, category, stream, &number, err))
		return -1;
	if (sqlite_run(s, err, NULL, "UPDATE herald_stream SET deleted = 1 WHERE number = ?", "i",
		       number) ||
	    sqlite_run(s, err, NULL, "DELETE FROM herald_snapshot WHERE stream_number = ?", "i",
		       number) ||
	    sqlite_run(s, err, NULL, "DELETE FROM herald_parked WHERE stream_number = ?", "i",
		       number) ||
	    sqlite_run(s, err, NULL, "DELETE FROM herald_event WHERE stream_number = ?", "i", number))
		return -1;
	*removed = sqlite_changed(s);
	return 0;
}

int sqlite_retention_remove(struct store *s, const char *category, const char *stream,
			    int64_t *removed, struct err *err)
{
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, remove_stream(s, category, stream, removed, err), err);
}

static int redact(struct store *s, int64_t position, const char *data, struct err *err)
{
	if (sqlite_run(s, err, NULL,
		       "UPDATE herald_event SET data = ?2, metadata = NULL, redacted = 1"
		       " WHERE position = ?1",
		       "is", position, data))
		return -1;
	if (!sqlite_changed(s))
		return 0;
	return sqlite_run(
		       s, err, NULL,
		       "DELETE FROM herald_snapshot WHERE EXISTS (SELECT 1 FROM herald_event e"
		       " WHERE e.position = ? AND e.stream_number = herald_snapshot.stream_number"
		       " AND e.version <= herald_snapshot.version)",
		       "i", position)
		       ? -1
		       : 1;
}

int sqlite_retention_redact(struct store *s, int64_t position, const char *data, struct err *err)
{
	struct strbuf line = { 0 };
	int result;

	if (!json_storable(str_c(data)))
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err, "the data is no JSON");
	json_compact(&line, str_c(data));
	result = sqlite_enter(s, err);
	if (!result)
		result = sqlite_leave(s, redact(s, position, strbuf_cstr(&line), err), err);
	strbuf_release(&line);
	return result;
}
