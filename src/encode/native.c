/*
 * native: one compact JSON object an event. Keys in this order, those without a value left out:
 * id time xid db action schema table key new old changed unchanged cascade restart_identity
 * prefix content encoding transactional tags. A domain event has type category stream version uuid
 * topic data metadata position between action and tags.
 */
#include "base/base64.h"
#include "base/json.h"
#include "base/time.h"
#include "base/utf8.h"
#include "encode/encode.h"
#include "encode/value.h"
#include "event/domain.h"

#define ID_PREFIX "{\"id\":\""

/* A row's columns as an object; VALUE_UNCHANGED ones are left out, and where key_only all but the
 * replica identity's. */
static void put_row(const struct encode_options *o, const struct relation *rel,
		    const struct value *values, bool key_only, struct strbuf *out)
{
	char next = '{';

	for (uint32_t i = 0; i < rel->ncols; i++) {
		const struct column *c = &rel->cols[i];

		if (values[i].kind == VALUE_UNCHANGED || (key_only && !c->key))
			continue;
		strbuf_ch(out, next);
		next = ',';
		strbuf_str(out, c->field.key);
		value_column(o, c, &values[i], out);
	}
	if (next == '{')
		strbuf_ch(out, '{');
	strbuf_ch(out, '}');
}

/* The names of the columns for which `listed` holds, behind `label`; nothing when there are none
 * and not `always`. */
static void put_names(const struct event *e, struct str label, bool always,
		      bool (*listed)(const struct event *e, uint32_t i), struct strbuf *out)
{
	size_t at = out->n;
	bool any = always;

	strbuf_str(out, label);
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct str key = e->rel->cols[i].field.key;

		if (!listed(e, i))
			continue;
		any = true;
		strbuf_add(out, key.p, key.n - 1); /* without its colon */
		strbuf_ch(out, ',');
	}
	if (!any) {
		out->n = at;
		return;
	}
	if (out->p[out->n - 1] == ',')
		out->n--;
	strbuf_ch(out, ']');
}

static bool is_unchanged(const struct event *e, uint32_t i)
{
	return e->new[i].kind == VALUE_UNCHANGED;
}

static void put_envelope(const struct event *e, struct strbuf *out)
{
	char id[POSITION_LEN];

	position_print(e->position, id);
	strbuf_lit(out, ID_PREFIX);
	strbuf_add(out, id, sizeof(id));
	strbuf_lit(out, "\",\"time\":\"");
	time_print(out, e->time, 'T', 6);
	strbuf_lit(out, "Z\"");
	if (e->xid) {
		strbuf_lit(out, ",\"xid\":");
		json_uint(out, e->xid);
	}
	strbuf_lit(out, ",\"db\":");
	json_string(out, e->source->db);
	strbuf_lit(out, ",\"action\":\"");
	strbuf_str(out, action_names[e->action]);
	strbuf_ch(out, '"');
}

static void put_table(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"schema\":");
	json_string(out, e->rel->schema);
	strbuf_lit(out, ",\"table\":");
	json_string(out, e->rel->name);
	if (e->rel->nprimary && (e->new || e->old)) {
		size_t at = out->n, empty;

		strbuf_lit(out, ",\"key\":");
		empty = out->n;
		encode_key(o, e, out);
		if (out->n == empty)
			out->n = at;
	}
}

static void put_rows(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->new) {
		strbuf_lit(out, ",\"new\":");
		put_row(o, e->rel, e->new, false, out);
	}
	if (e->old) {
		strbuf_lit(out, ",\"old\":");
		put_row(o, e->rel, e->old, !e->old_full, out);
	}
	if (e->new && e->old_full)
		put_names(e, STR(",\"changed\":["), true, event_column_changed, out);
	if (e->new && e->action == ACTION_UPDATE)
		put_names(e, STR(",\"unchanged\":["), false, is_unchanged, out);
}

static void put_truncate(const struct event *e, struct strbuf *out)
{
	if (e->cascade)
		strbuf_lit(out, ",\"cascade\":true");
	if (e->restart_identity)
		strbuf_lit(out, ",\"restart_identity\":true");
}

/* The content as it is best read: JSON, a string, or base64. */
static void put_message(const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, ",\"prefix\":");
	json_string_checked(out, e->prefix);
	strbuf_lit(out, ",\"content\":");
	if (json_valid(e->content) && utf8_valid(e->content)) {
		size_t at = out->n;

		strbuf_str(out, e->content);
		for (; at < out->n; at++)
			if (out->p[at] == '\n' || out->p[at] == '\r')
				out->p[at] = ' ';
	} else if (utf8_valid(e->content)) {
		json_string(out, e->content);
	} else {
		strbuf_ch(out, '"');
		base64_encode(out, e->content);
		strbuf_lit(out, "\",\"encoding\":\"base64\"");
	}
	strbuf_str(out, e->transactional ? STR(",\"transactional\":true")
					 : STR(",\"transactional\":false"));
}

/* Its time is the envelope's. */
static void put_domain(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	static const struct {
		struct str label;
		enum domain_column column;
	} keys[] = {
		{ STR(",\"type\":"), DOMAIN_TYPE },
		{ STR(",\"category\":"), DOMAIN_CATEGORY },
		{ STR(",\"stream\":"), DOMAIN_STREAM },
		{ STR(",\"version\":"), DOMAIN_VERSION },
		{ STR(",\"uuid\":"), DOMAIN_ID },
		{ STR(",\"topic\":"), DOMAIN_TOPIC },
		{ STR(",\"data\":"), DOMAIN_DATA },
		{ STR(",\"metadata\":"), DOMAIN_METADATA },
		{ STR(",\"position\":"), DOMAIN_POSITION },
	};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const struct value *v = &e->new[keys[i].column];

		if (v->kind == VALUE_NULL)
			continue;
		strbuf_str(out, keys[i].label);
		value_column(o, &e->rel->cols[keys[i].column], v, out);
	}
}

static bool native_event(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_BEGIN || e->action == ACTION_COMMIT)
		return false;
	put_envelope(e, out);
	if (e->action == ACTION_EVENT) {
		put_domain(o, e, out);
	} else if (e->rel) {
		put_table(o, e, out);
		put_rows(o, e, out);
		put_truncate(e, out);
	} else {
		put_message(e, out);
	}
	if (o->tags.n) {
		strbuf_lit(out, ",\"tags\":");
		strbuf_str(out, o->tags);
	}
	strbuf_ch(out, '}');
	return true;
}

static bool native_position(struct str message, struct position *p)
{
	struct str prefix = STR(ID_PREFIX);

	return message.n > prefix.n + POSITION_LEN && str_starts(message, prefix) &&
	       position_parse((struct str){ message.p + prefix.n, POSITION_LEN }, p);
}

const struct format format_native = {
	.name = "native",
	.help = "one JSON object an event",
	.event = native_event,
	.position = native_position,
};
