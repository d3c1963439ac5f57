/* Reading events in SQLite: the feed, a stream, an aggregate. */
#include "store/sqlite.h"

#include <stdio.h>

int sqlite_read_end(struct store *s, int64_t *position, struct err *err)
{
	return sqlite_run(s, err, position, "SELECT coalesce(max(position), 0) FROM herald_event",
			  "") < 0
		       ? -1
		       : 0;
}

int sqlite_read_stream(struct store *s, const char *category, const char *stream, int64_t *number,
		       struct err *err)
{
	*number = 0;
	return sqlite_run(s, err, number,
			  "SELECT number FROM herald_stream WHERE category = ? AND id = ?", "ss",
			  category, stream) < 0
		       ? -1
		       : 0;
}

static void print_id(char out[37], const unsigned char id[16])
{
	static const char hex[] = "0123456789abcdef";

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = hex[id[i] >> 4];
		*out++ = hex[id[i] & 15];
	}
	*out = '\0';
}

/* Copies a column with its NUL to *at, which moves on. */
static const char *take_text(sqlite3_stmt *row, int column, char **at)
{
	const char *text = (const char *)sqlite3_column_text(row, column);
	size_t n = (size_t)sqlite3_column_bytes(row, column) + 1;
	char *copy = *at;

	if (!text)
		return NULL;
	memcpy(copy, text, n);
	*at += n;
	return copy;
}

void sqlite_read_take(struct store_page *page, sqlite3_stmt *row)
{
	struct store_event *e = store_page_add(page);
	const unsigned char *id = sqlite3_column_blob(row, 5);
	size_t n = 37 + 6;
	char *at;

	for (int i = 3; i < 10; i++)
		n += i == 5 ? 0 : (size_t)sqlite3_column_bytes(row, i);
	at = arena_alloc(&page->text, n);
	e->position = sqlite3_column_int64(row, 0);
	e->version = sqlite3_column_int64(row, 1);
	e->time = sqlite3_column_int64(row, 2);
	e->category = take_text(row, 3, &at);
	e->stream = take_text(row, 4, &at);
	if (id) {
		print_id(at, id);
		e->id = at;
		at += 37;
	}
	e->type = take_text(row, 6, &at);
	e->topic = take_text(row, 7, &at);
	e->data = take_text(row, 8, &at);
	e->metadata = take_text(row, 9, &at);
}

/* Takes all rows from the one that was found on. */
static int take_all(struct store *s, struct store_page *page, int found, sqlite3_stmt *row,
		    struct err *err)
{
	while (found > 0) {
		sqlite_read_take(page, row);
		found = sqlite_more(s, row, err);
	}
	return found;
}

static const char *names(struct strbuf *b, const char *list)
{
	if (!list)
		return NULL;
	store_names_json(b, list);
	return strbuf_cstr(b);
}

static int read_feed(struct store *s, const struct store_query *q, struct store_page *page,
		     struct err *err)
{
	struct strbuf lists_json[3] = { 0 };
	sqlite3_stmt *row;
	int result = sqlite_ask(
		s, err, &row,
		"SELECT " SQLITE_COLUMNS " FROM herald_event e CROSS JOIN herald_stream s"
		" ON s.number = e.stream_number WHERE e.position > ?1"
		" AND (?3 IS NULL OR s.category IN (SELECT value FROM json_each(?3)))"
		" AND (?4 IS NULL OR e.topic IN (SELECT value FROM json_each(?4)))"
		" AND (?5 IS NULL OR e.type IN (SELECT value FROM json_each(?5)))"
		" ORDER BY e.position LIMIT ?2",
		"iisss", q->from, (int64_t)q->max, names(&lists_json[0], q->categories),
		names(&lists_json[1], q->topics), names(&lists_json[2], q->types));

	result = take_all(s, page, result, row, err);
	for (int i = 0; i < 3; i++)
		strbuf_release(&lists_json[i]);
	return result;
}

#define OF_STREAM                                                                                  \
	"SELECT " SQLITE_COLUMNS " FROM herald_event e CROSS JOIN herald_stream s"                 \
	" ON s.number = e.stream_number WHERE e.stream_number = ?1 AND e.version BETWEEN ?2 AND "  \
	"?3"

int sqlite_read_events(struct store *s, const struct store_query *q, struct store_page *page,
		       struct err *err)
{
	sqlite3_stmt *row;
	int64_t number;
	int found;

	store_page_clear(page);
	if (!q->stream)
		return read_feed(s, q, page, err);
	if (sqlite_read_stream(s, q->category, q->stream, &number, err))
		return -1;
	found = sqlite_ask(s, err, &row,
			   q->backward ? OF_STREAM " ORDER BY e.version DESC LIMIT ?4"
				       : OF_STREAM " ORDER BY e.version LIMIT ?4",
			   "iiii", number, q->from, q->to < 0 ? INT64_MAX : q->to, (int64_t)q->max);
	return take_all(s, page, found, row, err);
}

int sqlite_read_load(struct store *s, const char *category, const char *stream,
		     struct store_page *page, int64_t *version, struct err *err)
{
	int64_t number, behind = -1;
	sqlite3_stmt *row;
	int found;

	store_page_clear(page);
	*version =
		-1; /* it is read before the events: none that comes meanwhile is counted as read */
	if (sqlite_read_stream(s, category, stream, &number, err) ||
	    sqlite_run(s, err, version, "SELECT version FROM herald_stream WHERE number = ?", "i",
		       number) < 0)
		return -1;
	found = sqlite_ask(
		s, err, &row,
		"SELECT 0, n.version, n.time, s.category, s.id, NULL, NULL, NULL, n.state,"
		" NULL FROM herald_snapshot n JOIN herald_stream s"
		" ON s.number = n.stream_number WHERE n.stream_number = ?",
		"i", number);
	if (take_all(s, page, found, row, err))
		return -1;
	if (page->n)
		behind = page->events[0].version;
	found = sqlite_ask(s, err, &row, OF_STREAM " ORDER BY e.version", "iii", number, behind + 1,
			   INT64_MAX);
	found = take_all(s, page, found, row, err);
	for (size_t i = 0; i < page->n; i++)
		page->events[i].position = 0; /* a stream has versions */
	return found;
}
