/*
 * Debezium's change events as its PostgreSQL connector sends them without schemas. Values are in
 * debezium_value.c. A domain event is an insert into SCHEMA.CATEGORY, the form in which Debezium's
 * outbox router takes events. An update that changes the key is one event, op u with the old key in
 * before, but where tombstones can be sent: see encode.h.
 *
 * ts_ms, ts_us and ts_ns are the commit's time in the envelope as well as in source, so that the
 * same event always gives the same bytes. source.sequence holds, as strings, the LSN of the commit,
 * that of the change, and (a third, which Debezium has not) the ordinal of the change in its
 * transaction: with the first it is the event's position.
 */
#include "base/json.h"
#include "encode/debezium_value.h"
#include "encode/row.h"

static void put_row(const struct encode_options *o, const struct event *e,
		    const struct value *(*get)(const struct encode_options *o,
					       const struct event *e, uint32_t i),
		    struct strbuf *out)
{
	const struct column *cols = e->rel->cols;

	strbuf_ch(out, '{');
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct value *v = get(o, e, i);

		if (!v)
			continue;
		strbuf_str(out, cols[i].field.key);
		if (v->kind == VALUE_UNCHANGED)
			debezium_value_unavailable(o, cols[i].field.type, out);
		else
			debezium_value(o, &cols[i], v, out);
		strbuf_ch(out, ',');
	}
	if (out->p[out->n - 1] == ',')
		out->n--;
	strbuf_ch(out, '}');
}

static const struct value *row_before(const struct encode_options *o, const struct event *e,
				      uint32_t i)
{
	return row_old(e, i);
}

static const struct value *row_after(const struct encode_options *o, const struct event *e, uint32_t i)
{
	return &e->new[i];
}

static void put_rows(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, "{\"before\":");
	if (e->old)
		put_row(o, e, row_before, out);
	else
		strbuf_lit(out, "null");
	strbuf_lit(out, ",\"after\":");
	if (e->new)
		put_row(o, e, row_after, out);
	else
		strbuf_lit(out, "null");
}

static void put_sequence(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"sequence\":\"[\\\"");
	json_uint(out, e->position.lsn);
	strbuf_lit(out, "\\\",\\\"");
	json_uint(out, e->lsn);
	strbuf_lit(out, "\\\",\\\"");
	json_uint(out, e->position.ordinal);
	strbuf_lit(out, "\\\"]\"");
}

/* No clock of a server is before 1970. */
static uint64_t commit_time(const struct event *e)
{
	return e->time > 0 ? (uint64_t)e->time : 0;
}

static void put_ms(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"ts_ms\":");
	json_uint(out, commit_time(e) / 1000);
}

/* Nanoseconds are made of digits: the product might not fit. */
static void put_us_ns(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"ts_us\":");
	json_uint(out, commit_time(e));
	strbuf_lit(out, ",\"ts_ns\":");
	json_uint(out, commit_time(e));
	if (commit_time(e))
		strbuf_lit(out, "000");
}

static void put_source(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"source\":{\"version\":\"" PGHERALD_VERSION
			"\",\"connector\":\"postgresql\",\"name\":");
	json_string(out, e->source->name);
	put_ms(e, out);
	strbuf_lit(out, ",\"snapshot\":\"false\",\"db\":");
	json_string(out, e->source->db);
	put_sequence(e, out);
	put_us_ns(e, out);
	strbuf_lit(out, ",\"schema\":");
	json_string(out, e->rel ? e->rel->schema : STR(""));
	strbuf_lit(out, ",\"table\":");
	json_string(out, e->rel ? e->rel->name : STR(""));
	strbuf_lit(out, ",\"txId\":");
	if (e->xid)
		json_uint(out, e->xid);
	else
		strbuf_lit(out, "null");
	strbuf_lit(out, ",\"lsn\":");
	json_uint(out, e->lsn);
	strbuf_lit(out, ",\"xmin\":null}");
}

static void put_message(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"message\":{\"prefix\":");
	json_string_checked(out, e->prefix);
	strbuf_lit(out, ",\"content\":");
	debezium_value_bytes(o, e->content, out);
	strbuf_ch(out, '}');
}

static bool debezium_event(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	static const char ops[ACTION_COUNT] = {
		[ACTION_INSERT] = 'c',   [ACTION_UPDATE] = 'u',  [ACTION_DELETE] = 'd',
		[ACTION_TRUNCATE] = 't', [ACTION_MESSAGE] = 'm', [ACTION_EVENT] = 'c',
	};

	if (!ops[e->action])
		return false;
	put_rows(o, e, out);
	put_source(e, out);
	strbuf_lit(out, ",\"transaction\":null,\"op\":\"");
	strbuf_ch(out, ops[e->action]);
	strbuf_ch(out, '"');
	put_ms(e, out);
	put_us_ns(e, out);
	if (e->action == ACTION_MESSAGE)
		put_message(o, e, out);
	strbuf_ch(out, '}');
	return true;
}

/* {"id":1}; of a message its prefix; of a truncation nothing. */
static void debezium_key(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	size_t at = out->n;

	if (e->action == ACTION_MESSAGE) {
		strbuf_lit(out, "{\"prefix\":");
		json_string_checked(out, e->prefix);
		strbuf_ch(out, '}');
		return;
	}
	if (!e->new && !e->old)
		return;
	put_row(o, e, encode_key_value, out);
	if (out->n == at + 2)
		out->n = at;
}

/* The rest of a JSON text behind the string that begins at its first byte. */
static struct str behind_string(struct str s)
{
	size_t i = 1;

	while (i < s.n && s.p[i] != '"')
		i += s.p[i] == '\\' ? 2 : 1;
	return i < s.n ? str_from(s, i + 1) : (struct str){ s.p + s.n, 0 };
}

/* The text from the value of this key ("\"name\":") of a JSON object without blanks on, or empty.
 * Keys of objects inside do not count. */
static struct str member(struct str object, struct str key)
{
	int depth = 0;

	while (object.n) {
		if (depth == 1 && str_starts(object, key))
			return str_from(object, key.n);
		if (*object.p == '"') {
			object = behind_string(object);
			continue;
		}
		depth += *object.p == '{' || *object.p == '[';
		depth -= *object.p == '}' || *object.p == ']';
		object = depth > 0 ? str_from(object, 1) : (struct str){ NULL, 0 };
	}
	return object;
}

/* A number between \" and \" with what stands before it. */
static bool read_number(struct str *s, struct str before, uint64_t *v)
{
	size_t i = before.n;

	if (!str_starts(*s, before))
		return false;
	for (*v = 0; i < s->n && s->p[i] >= '0' && s->p[i] <= '9'; i++)
		if (__builtin_mul_overflow(*v, 10, v) ||
		    __builtin_add_overflow(*v, (uint64_t)(s->p[i] - '0'), v))
			return false;
	if (i == before.n)
		return false;
	*s = str_from(*s, i);
	return true;
}

static bool debezium_position(struct str message, struct position *p)
{
	struct str s = member(member(message, STR("\"source\":")), STR("\"sequence\":"));
	uint64_t lsn, ordinal;

	if (!read_number(&s, STR("\"[\\\""), &p->lsn) || !read_number(&s, STR("\\\",\\\""), &lsn) ||
	    !read_number(&s, STR("\\\",\\\""), &ordinal) || ordinal > UINT32_MAX)
		return false;
	p->ordinal = (uint32_t)ordinal;
	return str_starts(s, STR("\\\"]\""));
}

const struct format format_debezium = {
	.name = "debezium",
	.help = "Debezium's events without schemas",
	.tombstones = true,
	.event = debezium_event,
	.key = debezium_key,
	.position = debezium_position,
};
