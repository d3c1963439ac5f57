/*
 * The messages of PGEvents, byte for byte as Python's json.dumps writes them: blanks behind commas
 * and colons, ASCII only. Rows alone are shown, no truncation and no message; a domain event is
 * an insert into SCHEMA.CATEGORY.
 *
 * Values are those of value.h but for these: bytea is hex without \x, dates and times are
 * PostgreSQL's text, json is a string (jsonb is embedded), NaN and the infinities are null, of the
 * arrays only text[] is an array. A column that was not sent because it did not change is absent.
 */
#include "base/json.h"
#include "base/time.h"
#include "encode/row.h"
#include "encode/value.h"

#define TEXT_OID 25

/* A piece of a string's inside. */
static void put_ascii(struct strbuf *out, struct str s)
{
	size_t at = out->n;

	json_string_ascii(out, s);
	memmove(out->p + at, out->p + at + 1, out->n - at - 2);
	out->n -= 2;
}

/* A JSON string from its opening quote on, escapes kept; returns the byte behind it. */
static const char *put_json_string(struct strbuf *out, const char *p, const char *end)
{
	strbuf_ch(out, *p++);
	while (p < end && *p != '"') {
		const char *run = p;

		while (p < end && *p != '"' && *p != '\\')
			p++;
		put_ascii(out, (struct str){ run, (size_t)(p - run) });
		if (p < end && *p == '\\') {
			size_t n = end - p > 1 ? 2 : 1;

			strbuf_add(out, p, n);
			p += n;
		}
	}
	strbuf_ch(out, '"');
	return p < end ? p + 1 : p;
}

/* Valid JSON as json.dumps would have written it, digits and the order of keys kept. */
static void put_json(struct strbuf *out, struct str json)
{
	const char *p = json.p, *end = json.p + json.n;

	while (p < end) {
		if (*p == '"') {
			p = put_json_string(out, p, end);
			continue;
		}
		if (*p != ' ' && *p != '\t' && *p != '\n' && *p != '\r')
			strbuf_ch(out, *p);
		if (*p == ',' || *p == ':')
			strbuf_ch(out, ' ');
		p++;
	}
}

/* Shows the value in the usual way, then rewrites it. */
static void put_rewritten(const struct encode_options *o, const struct type *type, struct str text,
			  struct strbuf *out)
{
	struct strbuf usual = { 0 };

	value_json(o, type, text, &usual);
	put_json(out, strbuf_view(&usual));
	strbuf_release(&usual);
}

static void put_text(const struct encode_options *o, const struct type *type, struct str text,
		     struct strbuf *out)
{
	json_string_ascii(out, text);
}

static void put_bytea(const struct encode_options *o, const struct type *type, struct str text,
		      struct strbuf *out)
{
	json_string_ascii(out, str_starts(text, STR("\\x")) ? str_from(text, 2) : text);
}

static void put_jsonb(const struct encode_options *o, const struct type *type, struct str text,
		      struct strbuf *out)
{
	if (json_valid(text))
		put_json(out, text);
	else
		json_string_ascii(out, text);
}

static void put_array(const struct encode_options *o, const struct type *type, struct str text,
		      struct strbuf *out)
{
	if (type->elem && type->elem->oid == TEXT_OID)
		put_rewritten(o, type, text, out);
	else
		json_string_ascii(out, text);
}

/* By type_kind; where there is none the value is PostgreSQL's text. */
static void (*const writers[])(const struct encode_options *o, const struct type *type,
			       struct str text, struct strbuf *out) = {
	[TYPE_TEXT] = put_text,        [TYPE_BOOL] = value_json,    [TYPE_INT] = value_json,
	[TYPE_INT8] = value_json,      [TYPE_NUMERIC] = value_json, [TYPE_FLOAT] = value_json,
	[TYPE_DATE] = put_text,        [TYPE_TIMESTAMP] = put_text, [TYPE_TIMESTAMPTZ] = put_text,
	[TYPE_BYTEA] = put_bytea,      [TYPE_JSON] = put_text,      [TYPE_JSONB] = put_jsonb,
	[TYPE_ARRAY] = put_array,      [TYPE_VECTOR] = put_text,    [TYPE_RECORD] = put_rewritten,
	[TYPE_HSTORE] = put_rewritten, [TYPE_RANGE] = put_text,     [TYPE_MULTIRANGE] = put_text,
};

/* NULL, or a number that JSON lacks. */
static bool is_null(const struct column *c, const struct value *v)
{
	struct str text = value_str(v);

	if (v->kind == VALUE_NULL)
		return true;
	if (c->field.type->kind != TYPE_NUMERIC && c->field.type->kind != TYPE_FLOAT)
		return false;
	return str_eq(text, STR("NaN")) || str_eq(text, STR("Infinity")) ||
	       str_eq(text, STR("-Infinity"));
}

static void put_value(const struct encode_options *o, const struct column *c, const struct value *v,
		      struct strbuf *out)
{
	if (is_null(c, v))
		strbuf_lit(out, "null");
	else
		writers[c->field.type->kind](o, c->field.type, value_str(v), out);
}

static const struct value *no_row(const struct event *e, uint32_t i)
{
	return NULL;
}

/* What an insert has that is not null, and what an update changed as far as is known. */
static const struct value *row_diff(const struct event *e, uint32_t i)
{
	const struct column *c = &e->rel->cols[i];
	const struct value *new = row_new(e, i);
	const struct value *old = e->action == ACTION_UPDATE ? row_identity(e, i) : NULL;
	bool was_null = !old || is_null(c, old);

	if (!new || (was_null && is_null(c, new)))
		return NULL;
	if (!was_null && !is_null(c, new) && str_eq(value_str(new), value_str(old)))
		return NULL;
	return new;
}

static void put_row(const struct encode_options *o, const struct event *e,
		    const struct value *(*get)(const struct event *e, uint32_t i), struct strbuf *out)
{
	bool first = true;

	strbuf_ch(out, '{');
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct value *v = get(e, i);

		if (!v)
			continue;
		if (!first)
			strbuf_lit(out, ", ");
		first = false;
		json_string_ascii(out, e->rel->cols[i].field.name);
		strbuf_lit(out, ": ");
		put_value(o, &e->rel->cols[i], v, out);
	}
	strbuf_ch(out, '}');
}

static void put_id(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct value *v = e->new ? row_new(e, i) : row_old(e, i);

		if (v && str_eq(e->rel->cols[i].field.name, STR("id"))) {
			put_value(o, &e->rel->cols[i], v, out);
			return;
		}
	}
	strbuf_lit(out, "null");
}

/* As Python's datetime.isoformat: no fraction where there is none, else six digits. */
static void put_recorded_at(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ", \"recorded_at\": \"");
	time_print(out, e->time, 'T', e->time % TIME_SECOND ? 6 : 0);
	strbuf_lit(out, "+00:00\"");
}

static bool pgevents_event(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	static const char letters[ACTION_COUNT] = {
		[ACTION_INSERT] = 'I',
		[ACTION_UPDATE] = 'U',
		[ACTION_DELETE] = 'D',
		[ACTION_EVENT] = 'I',
	};
	/* options for values are not for this format */
	const struct encode_options own = { .recorded_at = o->recorded_at };

	if (!letters[e->action])
		return false;
	o = &own;
	strbuf_lit(out, "{\"table_name\": \"");
	put_ascii(out, e->rel->schema);
	strbuf_ch(out, '.');
	put_ascii(out, e->rel->name);
	strbuf_lit(out, "\", \"old\": ");
	put_row(o, e, letters[e->action] == 'I' ? no_row : row_identity, out);
	strbuf_lit(out, ", \"new\": ");
	put_row(o, e, row_new, out);
	strbuf_lit(out, ", \"id\": ");
	put_id(o, e, out);
	strbuf_lit(out, ", \"diff\": ");
	put_row(o, e, row_diff, out);
	strbuf_lit(out, ", \"action\": \"");
	strbuf_ch(out, letters[e->action]);
	strbuf_ch(out, '"');
	if (o->recorded_at)
		put_recorded_at(e, out);
	strbuf_ch(out, '}');
	return true;
}

const struct format format_pgevents = {
	.name = "pgevents",
	.help = "messages as PGEvents sends them",
	.event = pgevents_event,
};
