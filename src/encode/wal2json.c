/*
 * Format version 2 of the wal2json output plugin, with its types, transaction ids, times and LSNs:
 * one object for each change, B and C around a transaction. Numbers and booleans are JSON (NaN
 * and infinities, which JSON lacks, are null there), all else is PostgreSQL's text in a string,
 * domains too; bytea is hex without its \x.
 */
#include "base/base64.h"
#include "base/json.h"
#include "base/time.h"
#include "base/utf8.h"
#include "encode/row.h"
#include "encode/value.h"

#define INT4_OID 23
#define OID_OID 26

static bool is_bare(const struct type *type)
{
	enum type_kind kind = type->kind;

	if (type->oid != type->base)
		return false;
	return kind == TYPE_BOOL || kind == TYPE_INT || kind == TYPE_INT8 || kind == TYPE_NUMERIC ||
	       kind == TYPE_FLOAT;
}

/* NaN, Infinity, -Infinity */
static bool is_special(struct str text)
{
	return str_eq(text, STR("NaN")) || str_eq(text, STR("Infinity")) ||
	       str_eq(text, STR("-Infinity"));
}

static void put_value(const struct encode_options *o, const struct column *c, const struct value *v,
		      struct strbuf *out)
{
	const struct type *type = c->field.type;
	struct str text = value_str(v);

	if (v->kind == VALUE_NULL || (is_bare(type) && is_special(text)))
		strbuf_lit(out, "null");
	else if (is_bare(type))
		value_json(o, type, text, out);
	else if (type->oid == OID_OID)
		value_json(o, type_builtin(INT4_OID), text, out);
	else if (type->kind == TYPE_BYTEA && str_starts(text, STR("\\x")))
		json_string(out, str_from(text, 2));
	else
		json_string(out, text);
}

static void put_column(const struct encode_options *o, const struct column *c,
		       const struct value *v, struct strbuf *out)
{
	strbuf_lit(out, "{\"name\":");
	json_string(out, c->field.name);
	strbuf_lit(out, ",\"type\":");
	json_string(out, c->type_name);
	strbuf_lit(out, ",\"value\":");
	put_value(o, c, v, out);
	strbuf_lit(out, "},");
}

/* The columns that get() has, as an array. */
static void put_columns(const struct encode_options *o, const struct event *e,
			const struct value *(*get)(const struct event *e, uint32_t i),
			struct strbuf *out)
{
	strbuf_ch(out, '[');
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct value *v = get(e, i);

		if (v)
			put_column(o, &e->rel->cols[i], v, out);
	}
	if (out->p[out->n - 1] == ',')
		out->n--;
	strbuf_ch(out, ']');
}

static void put_change(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"schema\":");
	json_string(out, e->rel->schema);
	strbuf_lit(out, ",\"table\":");
	json_string(out, e->rel->name);
	if (e->new) {
		strbuf_lit(out, ",\"columns\":");
		put_columns(o, e, row_new, out);
	}
	if (e->action == ACTION_UPDATE || e->action == ACTION_DELETE) {
		strbuf_lit(out, ",\"identity\":");
		put_columns(o, e, row_identity, out);
	}
}

static void put_lsn(struct strbuf *out, uint64_t lsn)
{
	strbuf_printf(out, "\"" LSN_FMT "\"", LSN_ARG(lsn));
}

/* The plugin knows the end of a transaction when it begins and puts it into B as nextlsn;
 * pgoutput tells it only with the commit, so B lacks it here. */
static void put_transaction(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"xid\":");
	json_uint(out, e->xid);
	strbuf_lit(out, ",\"timestamp\":\"");
	time_print(out, e->time, ' ', TIME_TRIM);
	strbuf_lit(out, "+00\",\"lsn\":");
	put_lsn(out, e->position.lsn);
	if (e->commit_end) {
		strbuf_lit(out, ",\"nextlsn\":");
		put_lsn(out, e->commit_end);
	}
}

/* The plugin has no way to show bytes that are no text; they are base64 here, and say so. */
static void put_message(const struct event *e, struct strbuf *out)
{
	strbuf_printf(out, ",\"transactional\":%s,\"prefix\":", e->transactional ? "true" : "false");
	json_string_checked(out, e->prefix);
	strbuf_lit(out, ",\"content\":");
	if (utf8_valid(e->content)) {
		json_string(out, e->content);
		return;
	}
	strbuf_ch(out, '"');
	base64_encode(out, e->content);
	strbuf_lit(out, "\",\"encoding\":\"base64\"");
}

static bool wal2json_event(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	static const char letters[ACTION_COUNT] = {
		[ACTION_INSERT] = 'I',   [ACTION_UPDATE] = 'U',  [ACTION_DELETE] = 'D',
		[ACTION_TRUNCATE] = 'T', [ACTION_MESSAGE] = 'M', [ACTION_BEGIN] = 'B',
		[ACTION_COMMIT] = 'C',   [ACTION_EVENT] = 'I',
	};
	bool transaction = e->action == ACTION_BEGIN || e->action == ACTION_COMMIT;

	if (transaction && !o->transactions)
		return false;
	strbuf_lit(out, "{\"action\":\"");
	strbuf_ch(out, letters[e->action]);
	strbuf_ch(out, '"');
	if (transaction)
		put_transaction(e, out);
	else if (e->action == ACTION_MESSAGE)
		put_message(e, out);
	else
		put_change(o, e, out);
	strbuf_ch(out, '}');
	return true;
}

const struct format format_wal2json = {
	.name = "wal2json",
	.help = "format version 2 of the wal2json plugin",
	.shows_transactions = true,
	.event = wal2json_event,
};
