/* The public face of the event store. */
#include "lib/herald.h"

#include <stdlib.h>

#define PAGE 1000
#define MOST_SAVES 100 /* tries of herald_store_save */

struct herald_store {
	struct store store;
	struct err err;
	enum herald_problem problem;
	char *schema, *stream_id_type;
};

/* The result of a call, 0 or -1, with its problem noted. */
static int noted(struct herald_store *s, int result)
{
	if (result >= 0)
		return 0;
	s->problem = s->store.reason != STORE_NO_REASON ? (enum herald_problem)s->store.reason
		     : s->err.kind == ERR_RETRY         ? HERALD_AWAY
							: HERALD_REFUSED;
	return -1;
}

struct herald_store *herald_store_open(const char *url)
{
	struct herald_store *s = mem_alloc(sizeof(*s));

	noted(s, store_init(&s->store, url, &s->err));
	return s;
}

void herald_store_close(struct herald_store *s)
{
	if (!s)
		return;
	store_release(&s->store);
	free(s->schema);
	free(s->stream_id_type);
	free(s);
}

enum herald_problem herald_store_problem(const struct herald_store *s)
{
	return s->problem;
}

const char *herald_store_error(const struct herald_store *s)
{
	return s->err.msg;
}

int64_t herald_store_actual(const struct herald_store *s)
{
	return s->store.actual;
}

static void replace(char **kept, const char **used, const char *value)
{
	free(*kept);
	*used = *kept = mem_strdup(value);
}

int herald_store_set(struct herald_store *s, const char *name, const char *value)
{
	if (strcmp(name, "schema") == 0)
		replace(&s->schema, &s->store.schema, value);
	else if (strcmp(name, "stream-id-type") == 0 &&
		 (strcmp(value, "text") == 0 || strcmp(value, "uuid") == 0))
		replace(&s->stream_id_type, &s->store.stream_id_type, value);
	else
		return noted(s, err_set(&s->err, ERR_USAGE, "a store has no setting %s that is %s",
					name, value));
	return 0;
}

int herald_store_init(struct herald_store *s)
{
	int applied, version;

	return noted(s, store_make(&s->store, &applied, &version, &s->err));
}

void *herald_store_connection(struct herald_store *s)
{
	if (noted(s, store_ready(&s->store, &s->err)))
		return NULL;
	return s->store.backend->handle(&s->store);
}

int herald_store_begin(struct herald_store *s)
{
	return noted(s, store_begin(&s->store, &s->err));
}

int herald_store_commit(struct herald_store *s)
{
	return noted(s, store_commit(&s->store, &s->err));
}

void herald_store_rollback(struct herald_store *s)
{
	store_rollback(&s->store);
}

/* ---- events ---- */

int herald_store_append(struct herald_store *s, const char *category, const char *stream,
			const char *events, int64_t expected, struct herald_appended *done)
{
	struct store_appended a;

	if (noted(s, store_call(&s->store, &s->err, append, category, stream, events, expected, &a)))
		return -1;
	if (done)
		*done = (struct herald_appended){ a.first, a.last, a.duplicate };
	return 0;
}

int herald_store_append_many(struct herald_store *s, const char *events)
{
	struct store_counts counts;

	return noted(s, store_call(&s->store, &s->err, append_many, events, NULL, NULL, &counts));
}

/* Calls fn for the events of a page; not 0: that was enough. */
static int hand_on(const struct store_page *page, herald_stored_fn *fn, void *user)
{
	int enough = 0;

	for (size_t i = 0; i < page->n && !enough; i++) {
		struct herald_stored e = lib_stored(&page->events[i]);

		enough = fn(user, &e);
	}
	return enough;
}

/* Reads page after page. */
static int read_pages(struct herald_store *s, struct store_query *q, int64_t limit,
		      herald_stored_fn *fn, void *user)
{
	struct store_page page = { 0 };
	int result;

	do {
		q->max = limit && limit < PAGE ? (int)limit : PAGE;
		result = store_call(&s->store, &s->err, read, q, &page);
		if (result || !page.n || hand_on(&page, fn, user))
			break;
		store_query_advance(q, &page);
		limit -= limit ? (int64_t)page.n : 0;
	} while ((int)page.n == q->max && (q->max == PAGE || limit));
	store_page_release(&page);
	return noted(s, result);
}

int herald_store_read(struct herald_store *s, const struct herald_wanted *wanted,
		      herald_stored_fn *fn, void *user)
{
	struct store_query q = { .from = wanted->after,
				 .categories = wanted->categories,
				 .topics = wanted->topics,
				 .types = wanted->types };

	return read_pages(s, &q, wanted->limit, fn, user);
}

int herald_store_read_stream(struct herald_store *s, const char *category, const char *stream,
			     const struct herald_versions *versions, herald_stored_fn *fn, void *user)
{
	struct store_query q = { .category = category, .stream = stream, .to = -1 };

	if (versions) {
		q.from = versions->from;
		q.to = versions->to;
		q.backward = versions->backward;
	}
	return read_pages(s, &q, 0, fn, user);
}

/* ---- aggregates ---- */

int herald_store_load(struct herald_store *s, const char *category, const char *stream,
		      herald_stored_fn *fold, void *state, int64_t *version)
{
	struct store_page page = { 0 };
	int result;

	*version = -1;
	result = store_call(&s->store, &s->err, load, category, stream, &page, version);
	if (page.n && page.events[page.n - 1].version > *version)
		*version = page.events[page.n - 1].version;
	if (!result && hand_on(&page, fold, state))
		result = err_set(&s->err, ERR_FAIL, "%s/%s cannot be folded", category, stream);
	store_page_release(&page);
	return noted(s, result);
}

int herald_store_snapshot(struct herald_store *s, const char *category, const char *stream,
			  int64_t version, const char *state)
{
	return noted(s, store_call(&s->store, &s->err, snapshot, category, stream, version, state));
}

int herald_store_save(struct herald_store *s, const char *category, const char *stream,
		      const struct herald_aggregate *a, void *state, void *command,
		      struct herald_appended *done)
{
	int tries = s->store.in_transaction ? 1 : MOST_SAVES;
	int64_t version;
	const char *events;

	do {
		a->reset(state);
		if (herald_store_load(s, category, stream, a->fold, state, &version))
			return -1;
		events = a->decide(state, command);
		if (herald_store_append(s, category, stream, events ? events : "[]", version,
					done) == 0)
			return 0;
	} while (s->problem == HERALD_CONFLICT && --tries > 0);
	return -1;
}

/* ---- events that go ---- */

int herald_store_retain(struct herald_store *s, const char *category, int64_t max_age_s,
			int64_t max_count)
{
	return noted(s, store_call(&s->store, &s->err, retain, category, max_age_s, max_count));
}

int herald_store_purge(struct herald_store *s, int max, int force, int64_t *removed)
{
	return noted(s, store_call(&s->store, &s->err, purge, max, force != 0, removed));
}

int herald_store_truncate(struct herald_store *s, const char *category, const char *stream,
			  int64_t before_version)
{
	int64_t removed;

	return noted(s, store_call(&s->store, &s->err, truncate, category, stream, before_version,
				   &removed));
}

int herald_store_delete(struct herald_store *s, const char *category, const char *stream)
{
	int64_t removed;

	return noted(s, store_call(&s->store, &s->err, remove, category, stream, &removed));
}

int herald_store_redact(struct herald_store *s, int64_t position, const char *data)
{
	return noted(s, store_call(&s->store, &s->err, redact, position, data));
}
