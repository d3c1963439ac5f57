/* Events that a subscription has put aside, in SQLite. */
#include "store/sqlite.h"

int sqlite_parked_next(struct store *s, const char *name, struct store_page *page, struct err *err)
{
	sqlite3_stmt *row;
	int found;

	store_page_clear(page);
	found = sqlite_ask(
		s, err, &row,
		"SELECT " SQLITE_COLUMNS " FROM herald_parked p"
		" JOIN herald_event e USING (position)"
		" JOIN herald_stream s ON s.number = e.stream_number"
		" WHERE p.subscription = ?1 AND NOT p.done AND NOT (p.blocks AND EXISTS"
		" (SELECT 1 FROM herald_parked q WHERE q.subscription = ?1 AND NOT q.done"
		"  AND q.stream_number = p.stream_number AND q.position < p.position))"
		" ORDER BY p.position LIMIT 1",
		"s", name);
	if (found > 0) {
		sqlite_read_take(page, row);
		sqlite3_reset(row);
	}
	return found < 0 ? -1 : 0;
}

static int done(struct store *s, const char *name, int64_t position, struct err *err)
{
	if (sqlite_run(s, err, NULL,
		       "UPDATE herald_parked SET done = 1"
		       " WHERE subscription = ? AND position = ? AND NOT done",
		       "si", name, position))
		return -1;
	if (!sqlite_changed(s))
		return 0;
	if (sqlite_run(s, err, NULL,
		       "DELETE FROM herald_parked WHERE subscription = ?1 AND position = ?2"
		       " AND EXISTS (SELECT 1 FROM herald_subscription s JOIN herald_checkpoint c"
		       "  ON c.subscription = s.name WHERE s.name = ?1"
		       "  AND c.partition = herald_parked.stream_number % s.partitions"
		       "  AND c.position >= ?2)",
		       "si", name, position))
		return -1;
	return 1;
}

int sqlite_parked_done(struct store *s, const char *name, int64_t position, struct err *err)
{
	if (sqlite_enter(s, err))
		return -1;
	return sqlite_leave(s, done(s, name, position, err), err);
}
