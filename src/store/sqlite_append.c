/* Appending to the store in SQLite: what herald.append of src/store/sql/001-store.sql does. */
#include "base/clock.h"
#include "base/json.h"
#include "store/sqlite.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* An event to be appended; texts borrowed from the input or in the arena. */
struct new_event {
	const char *type, *topic;  /* topic NULL: none */
	struct str data, metadata; /* .p NULL: none */
	const char *category, *stream;
	int64_t expected;
	unsigned char id[16];
	bool has_id; /* of its own; else make_ids gives it one */
};

struct events {
	struct new_event *v;
	size_t n, cap;
	struct arena arena;
};

static void release(struct events *all)
{
	arena_release(&all->arena);
	free(all->v);
}

/* ---- understanding them ---- */

static int not_understood(struct store *s, size_t at, struct err *err)
{
	return store_refuse(s, STORE_NOT_UNDERSTOOD, err,
			    "event %zu is no object with a type and with nothing but type, data, "
			    "metadata, id and topic",
			    at);
}

/* A text as ->> of PostgreSQL gives it; NULL for null. */
static const char *text_of(struct arena *arena, struct str value, bool *bad)
{
	struct strbuf b = { 0 };
	const char *copy;

	if (str_eq(value, STR("null")))
		return NULL;
	if (value.p[0] != '"')
		return arena_copy(arena, value.p, value.n);
	if (!memchr(value.p, '\\', value.n))
		return arena_copy(arena, value.p + 1, value.n - 2);
	*bad = !json_unquote(&b, value);
	copy = arena_copy(arena, b.p, b.n);
	strbuf_release(&b);
	return copy;
}

/* On one line, and the same for the same however it was laid out. */
static struct str compact(struct arena *arena, struct str value)
{
	struct strbuf b = { 0 };
	struct str copy;
	bool blanks = false;

	for (size_t i = 0; i < value.n && !blanks; i++)
		blanks = value.p[i] == ' ' || value.p[i] == '\n' || value.p[i] == '\t' ||
			 value.p[i] == '\r';
	if (!blanks)
		return value;
	json_compact(&b, value);
	copy = (struct str){ arena_copy(arena, b.p, b.n), b.n };
	strbuf_release(&b);
	return copy;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 32 digits, with or without hyphens. */
static bool parse_id(unsigned char id[16], const char *text)
{
	size_t n = 0;

	for (; *text; text++) {
		int digit = hex_digit(*text);

		if (*text == '-' && n % 4 == 0)
			continue;
		if (digit < 0 || n == 32)
			return false;
		id[n / 2] = (unsigned char)(n % 2 ? id[n / 2] | digit : digit << 4);
		n++;
	}
	return n == 32;
}

/* Version 7 of RFC 9562: the time in milliseconds, then chance; so the index grows at its end. */
static void make_id(unsigned char id[16], int64_t now_us)
{
	uint64_t ms = (uint64_t)now_us / 1000;

	for (int i = 0; i < 6; i++)
		id[i] = (unsigned char)(ms >> (40 - 8 * i));
	id[6] = (unsigned char)((id[6] & 0x0f) | 0x70);
	id[8] = (unsigned char)((id[8] & 0x3f) | 0x80);
}

/* Gives ids to the events that have none. Chance is asked for in blocks: each time is a system call. */
static void make_ids(struct events *all)
{
	unsigned char chance[64][16];
	int64_t now = clock_wall_us();

	for (size_t i = 0; i < all->n; i++) {
		if (i % 64 == 0)
			arc4random_buf(chance, sizeof(chance));
		if (all->v[i].has_id)
			continue;
		memcpy(all->v[i].id, chance[i % 64], 16);
		make_id(all->v[i].id, now);
	}
}

enum member {
	M_TYPE,
	M_DATA,
	M_METADATA,
	M_ID,
	M_TOPIC,
	M_CATEGORY,
	M_STREAM,
	M_EXPECTED,
	M_OTHER
};

/* Those behind the topic are for append_many; of these the last three are not looked at. */
static const struct {
	struct str key;
	enum member member;
} members[] = {
	{ STR("\"type\""), M_TYPE },         { STR("\"data\""), M_DATA },
	{ STR("\"metadata\""), M_METADATA }, { STR("\"id\""), M_ID },
	{ STR("\"topic\""), M_TOPIC },       { STR("\"category\""), M_CATEGORY },
	{ STR("\"stream\""), M_STREAM },     { STR("\"expected\""), M_EXPECTED },
	{ STR("\"position\""), M_OTHER },    { STR("\"version\""), M_OTHER },
	{ STR("\"time\""), M_OTHER },
};

static bool set_member(struct new_event *e, struct arena *arena, struct str key, struct str value,
		       size_t known)
{
	bool bad = false;
	const char *text;
	size_t i = 0;

	while (i < known && !str_eq(members[i].key, key))
		i++;
	if (i == known)
		return false;
	if (members[i].member == M_DATA) {
		e->data = compact(arena, value);
		return true;
	}
	if (members[i].member == M_METADATA) {
		e->metadata = compact(arena, value);
		return true;
	}
	text = text_of(arena, value, &bad);
	if (members[i].member == M_TYPE)
		e->type = text;
	else if (members[i].member == M_TOPIC)
		e->topic = text;
	else if (members[i].member == M_CATEGORY && text)
		e->category = text;
	else if (members[i].member == M_STREAM && text)
		e->stream = text;
	else if (members[i].member == M_EXPECTED && text)
		e->expected = strtoll(text, NULL, 10);
	else if (members[i].member == M_ID && text)
		bad = !(e->has_id = parse_id(e->id, text));
	return !bad;
}

static bool add_event(struct events *all, struct str text, const struct new_event *defaults,
		      size_t known)
{
	struct str inside, key, value;
	struct new_event *e;

	if (text.p[0] != '{')
		return false;
	if (all->n == all->cap) {
		all->cap = all->cap ? 2 * all->cap : 4;
		all->v = mem_realloc(all->v, all->cap * sizeof(*all->v));
	}
	e = &all->v[all->n++];
	*e = *defaults;
	inside = json_inside(text);
	while (json_next(&inside, &key, &value))
		if (!set_member(e, &all->arena, key, value, known))
			return false;
	if (!e->data.p)
		e->data = STR("{}");
	return e->type && *e->type;
}

/* Takes events apart that have these members only; the first of `members`. */
static int parse(struct store *s, struct events *all, const char *events,
		 const struct new_event *defaults, size_t known, struct err *err)
{
	struct str text = str_c(events), inside, key, value;

	if (!json_storable(text))
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err, "the events are no JSON");
	while (strchr(" \t\r\n", text.p[0]))
		text = str_from(text, 1);
	if (text.p[0] == '{')
		return add_event(all, text, defaults, known) ? 0 : not_understood(s, 1, err);
	if (text.p[0] != '[')
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				    "events must be a JSON object or an array of objects");
	inside = json_inside(text);
	while (json_next(&inside, &key, &value))
		if (!add_event(all, value, defaults, known))
			return not_understood(s, all->n + (value.p[0] != '{'), err);
	return 0;
}

/* ---- ids that are there already ---- */

struct place {
	int64_t number, version; /* of the event that was found */
	bool same;               /* it says the same */
};

static void take_place(sqlite3_stmt *row, const struct new_event *e, struct place *p)
{
	p->number = sqlite3_column_int64(row, 0);
	p->version = sqlite3_column_int64(row, 1);
	p->same = strcmp((const char *)sqlite3_column_text(row, 2), e->type) == 0 &&
		  (sqlite3_column_int(row, 4) ||
		   str_eq(str_c((const char *)sqlite3_column_text(row, 3)), e->data));
	sqlite3_reset(row);
}

#define PLACE "SELECT stream_number, version, type, data, redacted FROM herald_event WHERE "

/* 1: an event has the id of e; 0: none has. */
static int find_id(struct store *s, const struct new_event *e, struct place *p, struct err *err)
{
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row, PLACE "id = ?", "b", e->id);

	if (found > 0)
		take_place(row, e, p);
	return found;
}

/* 1: the stream has an event of this version that says what e says. */
static int is_at(struct store *s, int64_t number, int64_t version, const struct new_event *e,
		 struct err *err)
{
	struct place p;
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row, PLACE "stream_number = ? AND version = ?", "ii",
			       number, version);

	if (found <= 0)
		return found;
	take_place(row, e, &p);
	return p.same;
}

static int id_in_use(struct store *s, const struct new_event *e, struct err *err)
{
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row,
			       "SELECT hex(e.id), e.version, s.category, s.id FROM herald_event e"
			       " JOIN herald_stream s ON s.number = e.stream_number WHERE e.id = ?",
			       "b", e->id);
	char id[37] = "";

	if (found <= 0)
		return -1;
	snprintf(id, sizeof(id), "%s", (const char *)sqlite3_column_text(row, 0));
	for (char *c = id; *c; c++)
		*c |= 32;
	store_refuse(s, STORE_ID_IN_USE, err,
		     "id %.8s-%.4s-%.4s-%.4s-%.12s is in use, at version %" PRId64 " of %s/%s", id,
		     id + 8, id + 12, id + 16, id + 20, (int64_t)sqlite3_column_int64(row, 1),
		     sqlite3_column_text(row, 2), sqlite3_column_text(row, 3));
	sqlite3_reset(row);
	return -1;
}

/* The first of the events whose id is in use, 0 where there is none, and where it is. */
static int find_used(struct store *s, const struct new_event *events, size_t n, size_t *used,
		     struct place *p, struct err *err)
{
	int found = 0;

	for (*used = 0; *used < n; ++*used) {
		if (events[*used].has_id)
			found = find_id(s, &events[*used], p, err);
		if (found)
			break;
	}
	return found;
}

/* 1: these events are in the stream already, in this order from *first on, those without an id,
 * too; 0: none of their ids is in use. Anything else is an error. */
static int find_duplicate(struct store *s, int64_t number, const struct new_event *events, size_t n,
			  int64_t *first, struct err *err)
{
	struct place p;
	size_t used;
	int found = find_used(s, events, n, &used, &p, err);

	if (found <= 0)
		return found;
	*first = p.version - (int64_t)used;
	found = p.number == number && *first >= 0;
	for (size_t i = 0; i < n && found > 0; i++) {
		if (!events[i].has_id) {
			found = is_at(s, number, *first + (int64_t)i, &events[i], err);
			continue;
		}
		found = find_id(s, &events[i], &p, err);
		if (found > 0)
			found = p.same && p.number == number && p.version == *first + (int64_t)i;
	}
	return found ? found : id_in_use(s, &events[used], err);
}

/* ---- appending ---- */

static int conflict(struct store *s, const char *category, const char *stream, int64_t expected,
		    int64_t actual, struct err *err)
{
	char must[40] = "must not exist", is[40] = "it does not exist";

	if (expected >= 0)
		snprintf(must, sizeof(must), "must be at version %" PRId64, expected);
	if (actual >= 0)
		snprintf(is, sizeof(is), "it is at version %" PRId64, actual);
	s->expected = expected;
	s->actual = actual;
	return store_refuse(s, STORE_CONFLICT, err, "stream %s/%s %s, but %s", category, stream,
			    must, is);
}

static int insert(struct store *s, int64_t number, int64_t version, const struct new_event *events,
		  size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct new_event *e = &events[i];

		if (sqlite_run(s, err, NULL,
			       "INSERT INTO herald_event (stream_number, version, time, id, type,"
			       " topic, data, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			       "iiibsstt", number, version + (int64_t)i, clock_wall_us(), e->id,
			       e->type, e->topic, &e->data, &e->metadata))
			return -1;
	}
	return 0;
}

struct head {
	int64_t number, version;
	bool deleted;
};

/* 1: there is such a stream. */
static int find_stream(struct store *s, const char *category, const char *stream, struct head *head,
		       struct err *err)
{
	sqlite3_stmt *row;
	int found = sqlite_ask(s, err, &row,
			       "SELECT number, version, deleted FROM herald_stream"
			       " WHERE category = ? AND id = ?",
			       "ss", category, stream);

	if (found <= 0)
		return found;
	head->number = sqlite3_column_int64(row, 0);
	head->version = sqlite3_column_int64(row, 1);
	head->deleted = sqlite3_column_int(row, 2) != 0;
	sqlite3_reset(row);
	return 1;
}

/* Events for one stream. */
struct part {
	const char *category, *stream;
	int64_t expected;
	struct new_event *v;
	size_t n;
};

static int append_new(struct store *s, const struct part *p, struct store_appended *done,
		      struct err *err)
{
	int64_t ignored;

	*done = (struct store_appended){ p->n ? 0 : -1, (int64_t)p->n - 1, false };
	if (p->expected >= 0)
		return conflict(s, p->category, p->stream, p->expected, -1, err);
	if (p->n == 0)
		return 0;
	if (find_duplicate(s, 0, p->v, p->n, &ignored, err))
		return -1;
	/* With RETURNING SQLite would keep a journal of its own for this statement. */
	if (sqlite_run(s, err, NULL,
		       "INSERT INTO herald_stream (category, id, version) VALUES (?, ?, ?)", "ssi",
		       p->category, p->stream, done->last))
		return -1;
	return insert(s, sqlite_inserted(s), 0, p->v, p->n, err);
}

/* In a transaction. */
static int append_part(struct store *s, const struct part *p, struct store_appended *done,
		       struct err *err)
{
	struct head head;
	int64_t first;
	int found;

	if (!p->category || !*p->category || !p->stream || !*p->stream)
		return store_refuse(s, STORE_NOT_UNDERSTOOD, err,
				    "category and stream must not be empty");
	found = find_stream(s, p->category, p->stream, &head, err);
	if (found <= 0)
		return found < 0 ? -1 : append_new(s, p, done, err);
	found = find_duplicate(s, head.number, p->v, p->n, &first, err);
	if (found < 0)
		return -1;
	if (found && p->expected != STORE_ANY && p->expected != first - 1)
		return store_refuse(s, STORE_ID_IN_USE, err,
				    "these events are at version %" PRId64 " of %s/%s already",
				    first, p->category, p->stream);
	if (found) {
		*done = (struct store_appended){ first, first + (int64_t)p->n - 1, true };
		return 0;
	}
	if (head.deleted)
		return store_refuse(s, STORE_DELETED, err, "stream %s/%s was deleted", p->category,
				    p->stream);
	if (p->expected != STORE_ANY && p->expected != head.version)
		return conflict(s, p->category, p->stream, p->expected, head.version, err);
	*done = (struct store_appended){ p->n ? head.version + 1 : -1, head.version + (int64_t)p->n,
					 false };
	if (p->n == 0)
		return 0;
	if (sqlite_run(s, err, NULL, "UPDATE herald_stream SET version = ? WHERE number = ?", "ii",
		       done->last, head.number))
		return -1;
	return insert(s, head.number, done->first, p->v, p->n, err);
}

int sqlite_append(struct store *s, const char *category, const char *stream, const char *events,
		  int64_t expected, struct store_appended *done, struct err *err)
{
	struct events all = { 0 };
	int result = parse(s, &all, events, &(struct new_event){ 0 }, 5, err);

	make_ids(&all);
	if (!result)
		result = sqlite_enter(s, err);
	if (!result)
		result = sqlite_leave(
			s,
			append_part(s, &(struct part){ category, stream, expected, all.v, all.n },
				    done, err),
			err);
	release(&all);
	return result;
}

static bool same_stream(const struct new_event *a, const struct new_event *b)
{
	return b->expected == STORE_ANY && a->category && b->category && a->stream && b->stream &&
	       strcmp(a->category, b->category) == 0 && strcmp(a->stream, b->stream) == 0;
}

/* Events of one stream that follow each other are one append. */
static int append_all(struct store *s, struct events *all, struct store_counts *counts,
		      struct err *err)
{
	*counts = (struct store_counts){ 0 };
	for (size_t i = 0, n; i < all->n; i += n) {
		struct new_event *e = &all->v[i];
		struct store_appended done = { 0 };

		for (n = 1; i + n < all->n && same_stream(e, e + n); n++)
			;
		if (append_part(s, &(struct part){ e->category, e->stream, e->expected, e, n },
				&done, err))
			return -1;
		if (done.duplicate)
			counts->duplicates += (int64_t)n;
		else
			counts->appended += (int64_t)n;
	}
	return 0;
}

int sqlite_append_many(struct store *s, const char *events, const char *category,
		       const char *stream, struct store_counts *done, struct err *err)
{
	struct new_event defaults = { .category = category, .stream = stream, .expected = STORE_ANY };
	struct events all = { 0 };
	int result = parse(s, &all, events, &defaults, sizeof(members) / sizeof(members[0]), err);

	make_ids(&all);
	if (!result)
		result = sqlite_enter(s, err);
	if (!result)
		result = sqlite_leave(s, append_all(s, &all, done, err), err);
	release(&all);
	return result;
}
