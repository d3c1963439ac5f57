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

	if (!json_valid(str_c(state)))
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
			  " aged_position = 0",
			  "sii", category, max_age_s * 1000000, max_count);
}

/* ---- purging ---- */

struct rule {
	struct strbuf category;
	int64_t max_age, max_count; /* 0: none */
	int64_t aged;               /* everything up to here was looked at */
};

/* The rule behind this category; 0: that was the last one. */
static int next_rule(struct store *s, struct rule *r, struct err *err)
{
	sqlite3_stmt *row;
	int found =
		sqlite_ask(s, err, &row,
			   "SELECT category, max_age, max_count, aged_position"
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
	sqlite3_reset(row);
	return 1;
}

/* The old ones, up to the first that is young enough. */
static int purge_aged(struct store *s, const struct rule *r, int64_t slowest, int64_t max,
		      int64_t *removed, struct err *err)
{
	int64_t behind;
	int found = sqlite_run(s, err, &behind,
			       "SELECT max(position) FROM (SELECT e.position FROM herald_event e"
			       " CROSS JOIN herald_stream s ON s.number = e.stream_number"
			       " WHERE e.position > ?2 AND e.position <= ?3 AND s.category = ?1"
			       " AND e.position < coalesce((SELECT y.position FROM herald_event y"
			       "  CROSS JOIN herald_stream z ON z.number = y.stream_number"
			       "  WHERE y.position > ?2 AND z.category = ?1 AND y.time >= ?4"
			       "  ORDER BY y.position LIMIT 1), 9223372036854775807)"
			       " ORDER BY e.position LIMIT ?5)",
			       "siiii", r->category.p, r->aged, slowest,
			       clock_wall_us() - r->max_age, max);

	if (found <= 0 || !behind)
		return found < 0 ? -1 : 0;
	if (sqlite_run(s, err, NULL,
		       "DELETE FROM herald_event WHERE position > ?2 AND position <= ?3"
		       " AND stream_number IN"
		       " (SELECT number FROM herald_stream WHERE category = ?1)",
		       "sii", r->category.p, r->aged, behind))
		return -1;
	*removed += sqlite_changed(s);
	return sqlite_run(s, err, NULL,
			  "UPDATE herald_retention SET aged_position = ?2 WHERE category = ?1",
			  "si", r->category.p, behind);
}

static int purge_counted(struct store *s, const struct rule *r, int64_t slowest, int64_t max,
			 int64_t *removed, struct err *err)
{
	if (sqlite_run(
		    s, err, NULL,
		    "DELETE FROM herald_event WHERE position IN (SELECT e.position"
		    " FROM herald_stream s CROSS JOIN herald_event e ON e.stream_number = s.number"
		    "  AND e.version <= s.version - ?2 AND e.position <= ?3"
		    " WHERE s.category = ?1 AND s.version >= ?2 LIMIT ?4)",
		    "siii", r->category.p, r->max_count, slowest, max))
		return -1;
	*removed += sqlite_changed(s);
	return 0;
}

static int purge(struct store *s, int max, bool force, int64_t *removed, struct err *err)
{
	struct rule r = { 0 };
	int64_t slowest;
	int found;

	if (sqlite_run(s, err, &slowest,
		       "SELECT min(coalesce((SELECT min(position) FROM herald_checkpoint WHERE NOT "
		       "?1),"
		       " 9223372036854775807), 9223372036854775807)",
		       "i", (int64_t)force) < 0)
		return -1;
	while (*removed < max && (found = next_rule(s, &r, err)) != 0) {
		if (found > 0 && r.max_age)
			found = purge_aged(s, &r, slowest, max - *removed, removed, err);
		if (found >= 0 && r.max_count && *removed < max)
			found = purge_counted(s, &r, slowest, max - *removed, removed, err);
		if (found < 0) {
			strbuf_release(&r.category);
			return -1;
		}
	}
	strbuf_release(&r.category);
	return 0;
}

int sqlite_retention_purge(struct store *s, int max, bool force, int64_t *removed, struct err *err)
{
	*removed = 0;
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, purge(s, max, force, removed, err), err);
}

/* ---- what somebody asked to remove ---- */

int sqlite_retention_truncate(struct store *s, const char *category, const char *stream,
			      int64_t before, int64_t *removed, struct err *err)
{
	if (sqlite_run(s, err, NULL,
		       "DELETE FROM herald_event WHERE version < ?3 AND stream_number ="
		       " (SELECT number FROM herald_stream WHERE category = ?1 AND id = ?2)",
		       "ssi", category, stream, before))
		return -1;
	*removed = sqlite_changed(s);
	return 0;
}

static int remove_stream(struct store *s, const char *category, const char *stream,
			 int64_t *removed, struct err *err)
{
	int64_t number;

	*removed = 0;
	if (sqlite_stream(s, category, stream, &number, err))
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

	if (!json_valid(str_c(data)))
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err, "the data is no JSON");
	json_compact(&line, str_c(data));
	result = sqlite_enter(s, err);
	if (!result)
		result = sqlite_leave(s, redact(s, position, strbuf_cstr(&line), err), err);
	strbuf_release(&line);
	return result;
}
