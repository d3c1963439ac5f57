#include "store/store.h"

#include "base/json.h"
#include "base/time.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SQLITE "sqlite:"

int store_init(struct store *s, const char *url, struct err *err)
{
	*s = (struct store){ .schema = "herald", .stream_id_type = "text" };
	s->backend = &store_postgres;
	if (strncmp(url, SQLITE, strlen(SQLITE)) == 0) {
#ifdef HAVE_SQLITE
		s->backend = &store_sqlite;
		url += strlen(SQLITE);
#else
		return err_set(err, ERR_CONFIG, "this build has no SQLite");
#endif
	}
	s->url = mem_strdup(url);
	return 0;
}

void store_disconnect(struct store *s)
{
	if (s->state)
		s->backend->close(s);
	s->state = NULL;
}

void store_release(struct store *s)
{
	store_disconnect(s);
	if (s->dial)
		s->backend->hang_up(s);
	free(s->url);
	s->url = NULL;
}

/* Whether it may be connected, if it is not. */
static int check_lost(struct store *s, struct err *err)
{
	s->reason = STORE_NO_REASON;
	if (!s->state && s->in_transaction)
		return err_set(err, ERR_RETRY, "the transaction was lost with its connection");
	return 0;
}

int store_connect(struct store *s, int wake, struct err *err)
{
	int there;

	if (s->state || !s->backend->dial)
		return store_ready(s, err) ? -1 : 1;
	there = check_lost(s, err) ? -1 : s->backend->dial(s, wake, err);
	if (there < 0)
		store_disconnect(s);
	return there;
}

int store_ready(struct store *s, struct err *err)
{
	if (check_lost(s, err))
		return -1;
	if (s->state || s->backend->open(s, err) == 0)
		return 0;
	store_disconnect(s);
	return -1;
}

int store_done(struct store *s, int result)
{
	if (result < 0 && s->backend->broken(s))
		store_disconnect(s);
	return result;
}

int store_make(struct store *s, int *applied, int *version, struct err *err)
{
	int result;

	s->make = true;
	result = store_call(s, err, init, applied, version);
	s->make = false;
	return result;
}

int store_begin(struct store *s, struct err *err)
{
	if (s->in_transaction)
		return err_set(err, ERR_USAGE, "there is a transaction already");
	if (store_call(s, err, begin))
		return -1;
	s->in_transaction = true;
	return 0;
}

int store_commit(struct store *s, struct err *err)
{
	if (!s->in_transaction)
		return err_set(err, ERR_USAGE, "there is no transaction to commit");
	if (store_call(s, err, commit)) {
		store_rollback(s);
		return -1;
	}
	s->in_transaction = false;
	return 0;
}

void store_rollback(struct store *s)
{
	struct err ignored;
	enum store_reason reason = s->reason;

	/* What cannot be rolled back goes with its connection. */
	if (s->in_transaction && s->state && s->backend->rollback(s, &ignored))
		store_disconnect(s);
	s->in_transaction = false;
	s->reason = reason;
}

struct search {
	const char *name;
	bool found;
};

static int look_at(void *user, int n, const char *const *names, const char *const *values)
{
	struct search *s = user;

	s->found = strcmp(values[0], s->name) == 0;
	return s->found;
}

int store_check_subscription(struct store *s, const char *name, struct err *err)
{
	struct search search = { .name = name };

	if (store_call(s, err, list, STORE_LAG, NULL, look_at, &search))
		return -1;
	if (search.found)
		return 0;
	return err_set(err, ERR_CONFIG,
		       "there is no subscription %s; pgherald store stats shows those there are",
		       name);
}

int store_refuse(struct store *s, enum store_reason reason, struct err *err, const char *fmt, ...)
{
	char msg[sizeof(err->msg)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	s->reason = reason;
	return err_set(err, ERR_FAIL, "%s", msg);
}

/* ---- pages ---- */

void store_query_advance(struct store_query *q, const struct store_page *page)
{
	const struct store_event *last = page->n ? &page->events[page->n - 1] : NULL;

	if (!last)
		return;
	if (!q->stream) {
		q->from = last->position;
	} else if (!q->backward) {
		q->from = last->version + 1;
	} else {
		q->from = last->version ? q->from : 1; /* nothing is before version 0 */
		q->to = last->version ? last->version - 1 : 0;
	}
}

void store_page_clear(struct store_page *page)
{
	if (page->result)
		page->clear(page->result);
	page->result = NULL;
	arena_release(&page->text);
	page->n = 0;
}

struct store_event *store_page_add(struct store_page *page)
{
	if (page->n == page->cap) {
		page->cap = page->cap ? 2 * page->cap : 64;
		page->events = mem_realloc(page->events, page->cap * sizeof(*page->events));
	}
	page->events[page->n] = (struct store_event){ 0 };
	return &page->events[page->n++];
}

void store_page_release(struct store_page *page)
{
	store_page_clear(page);
	free(page->events);
	*page = (struct store_page){ 0 };
}

/* ---- JSON ---- */

static void put_text(struct strbuf *b, const char *name, const char *text)
{
	strbuf_printf(b, ",\"%s\":", name);
	if (text)
		json_string(b, str_c(text));
	else
		strbuf_lit(b, "null");
}

void store_event_json(struct strbuf *b, const struct store_event *e)
{
	strbuf_lit(b, "{\"position\":");
	if (e->position)
		strbuf_printf(b, "%" PRId64, e->position);
	else
		strbuf_lit(b, "null");
	put_text(b, "category", e->category);
	put_text(b, "stream", e->stream);
	strbuf_printf(b, ",\"version\":%" PRId64, e->version);
	put_text(b, "id", e->id);
	put_text(b, "type", e->type);
	put_text(b, "topic", e->topic);
	strbuf_lit(b, ",\"time\":\"");
	time_print(b, e->time, 'T', TIME_TRIM);
	strbuf_lit(b, "Z\",\"data\":");
	strbuf_str(b, str_c(e->data));
	strbuf_lit(b, ",\"metadata\":");
	strbuf_str(b, str_c(e->metadata ? e->metadata : "null"));
	strbuf_ch(b, '}');
}

void store_names_json(struct strbuf *b, const char *names)
{
	strbuf_ch(b, '[');
	while (names) {
		const char *end = strchrnul(names, ',');

		json_string(b, (struct str){ names, (size_t)(end - names) });
		names = *end ? end + 1 : NULL;
		if (names)
			strbuf_ch(b, ',');
	}
	strbuf_ch(b, ']');
}
