/*
 * The messages of wal-listener, and with variant "pgwalstreams" of pgwalstreams, which knows no
 * old values: there a deleted row is the data. Values are those of value.h. Keys of data are in
 * the order of their bytes and < > & are escaped, as Go's encoder does it. Logical messages have
 * no place in this format.
 */
#include "base/json.h"
#include "base/time.h"
#include "encode/row.h"
#include "encode/value.h"
#include "event/domain.h"
#include "event/uuid.h"

/* PostgreSQL's limit, MaxHeapAttributeNumber. */
#define MAX_COLUMNS 1600

static int compare_names(const struct relation *rel, uint16_t a, uint16_t b)
{
	struct str x = rel->cols[a].field.name, y = rel->cols[b].field.name;
	int c = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);

	return c ? c : (x.n > y.n) - (x.n < y.n);
}

/* Shell's sort: no memory, and fast where little is out of order. */
static void sort_columns(const struct relation *rel, uint16_t *order, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		order[i] = (uint16_t)i;
	for (uint32_t gap = n / 2; gap; gap /= 2) {
		for (uint32_t i = gap; i < n; i++) {
			uint16_t moved = order[i];
			uint32_t at = i;

			for (; at >= gap && compare_names(rel, order[at - gap], moved) > 0; at -= gap)
				order[at] = order[at - gap];
			order[at] = moved;
		}
	}
}

static void put_row(const struct encode_options *o, const struct event *e, const uint16_t *order,
		    const struct value *(*get)(const struct event *e, uint32_t i), struct strbuf *out)
{
	bool first = true;

	strbuf_ch(out, '{');
	for (uint32_t k = 0; k < e->rel->ncols; k++) {
		uint32_t i = order ? order[k] : k;
		const struct value *v = get(e, i);

		if (!v)
			continue;
		if (!first)
			strbuf_ch(out, ',');
		first = false;
		strbuf_str(out, e->rel->cols[i].field.key);
		value_column(o, &e->rel->cols[i], v, out);
	}
	strbuf_ch(out, '}');
}

/* How many bytes at p Go's encoder would escape, or 0; *as is what it writes for them. */
static size_t go_escape(const char *p, const char *end, const char **as)
{
	static const struct {
		struct str from;
		const char *to;
	} escapes[] = {
		{ STR("<"), "\\u003c" },
		{ STR(">"), "\\u003e" },
		{ STR("&"), "\\u0026" },
		{ STR("\xe2\x80\xa8"), "\\u2028" },
		{ STR("\xe2\x80\xa9"), "\\u2029" },
	};

	if (*p != '<' && *p != '>' && *p != '&' && *p != '\xe2')
		return 0;
	for (size_t i = 0; i < sizeof(escapes) / sizeof(escapes[0]); i++) {
		*as = escapes[i].to;
		if (str_starts((struct str){ p, (size_t)(end - p) }, escapes[i].from))
			return escapes[i].from.n;
	}
	return 0;
}

/* Whether there may be anything for go_escape; most messages have nothing. */
static bool may_need_escape(struct str s)
{
	return memchr(s.p, '<', s.n) || memchr(s.p, '>', s.n) || memchr(s.p, '&', s.n) ||
	       memchr(s.p, '\xe2', s.n);
}

/* Rewrites what was written from `at` on (where such bytes stand in strings only), in place and
 * from its end, so that nothing is overwritten before it was read. */
static void escape_as_go(struct strbuf *out, size_t at)
{
	const char *p = out->p + at, *end = out->p + out->n, *as;
	size_t more = 0;
	char *to;

	if (!may_need_escape(str_from(strbuf_view(out), at)))
		return;
	for (; p < end; p++) {
		size_t n = go_escape(p, end, &as);

		more += n ? 6 - n : 0;
	}
	if (!more)
		return;
	strbuf_room(out, more);
	end = out->p + out->n;
	to = out->p + out->n + more;
	for (p = end; p-- > out->p + at;) {
		size_t n = go_escape(p, end, &as);

		to -= n ? 6 - (n - 1) : 1;
		if (n)
			memcpy(to, as, 6);
		else
			*to = *p;
	}
	out->n += more;
}

static void put_id(const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_EVENT) {
		strbuf_str(out, domain_text(e, DOMAIN_ID));
		return;
	}
	uuid_print(e->source, e->position, strbuf_room(out, UUID_LEN));
	out->n += UUID_LEN;
}

static void put_data(const struct encode_options *o, const struct event *e, bool streams,
		     struct strbuf *out)
{
	bool deleted = e->action == ACTION_DELETE;
	uint16_t columns[MAX_COLUMNS], *order = NULL;

	if (e->rel->ncols <= MAX_COLUMNS) {
		order = columns;
		sort_columns(e->rel, order, e->rel->ncols);
	}
	strbuf_lit(out, "\",\"data\":");
	put_row(o, e, order, streams && deleted ? row_old : row_new, out);
	if (streams)
		return;
	strbuf_lit(out, ",\"dataOld\":");
	put_row(o, e, order, row_old, out);
}

static bool wal_listener_event(const struct encode_options *o, const struct event *e,
			       struct strbuf *out)
{
	static const struct str actions[ACTION_COUNT] = {
		[ACTION_INSERT] = STR("INSERT"), [ACTION_UPDATE] = STR("UPDATE"),
		[ACTION_DELETE] = STR("DELETE"), [ACTION_TRUNCATE] = STR("TRUNCATE"),
		[ACTION_EVENT] = STR("INSERT"),
	};
	bool streams = o->variant && strcmp(o->variant, "pgwalstreams") == 0;
	size_t at = out->n;

	if (!actions[e->action].n)
		return false;
	strbuf_lit(out, "{\"id\":\"");
	put_id(e, out);
	strbuf_lit(out, "\",\"schema\":");
	json_string(out, e->rel->schema);
	strbuf_lit(out, ",\"table\":");
	json_string(out, e->rel->name);
	strbuf_lit(out, ",\"action\":\"");
	strbuf_str(out, actions[e->action]);
	put_data(o, e, streams, out);
	strbuf_lit(out, ",\"commitTime\":\"");
	time_print(out, e->time, 'T', TIME_TRIM);
	strbuf_lit(out, "Z\"}");
	escape_as_go(out, at);
	return true;
}

/* The value of the one column that is the key, as JSON; of tables without it the table's name. */
static void wal_listener_key(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (o->nkey_columns == 0) {
		encode_key(o, e, out);
		return;
	}
	for (uint32_t i = 0; e->rel && i < e->rel->ncols; i++) {
		const struct value *v = encode_key_value(o, e, i);

		if (!v || v->kind == VALUE_UNCHANGED)
			continue;
		value_column(o, &e->rel->cols[i], v, out);
		return;
	}
	if (e->rel)
		strbuf_str(out, e->rel->name);
}

const struct format format_wal_listener = {
	.name = "wal-listener",
	.help = "messages as wal-listener sends them (variant: pgwalstreams)",
	.event = wal_listener_event,
	.key = wal_listener_key,
	.any_key = true,
};
