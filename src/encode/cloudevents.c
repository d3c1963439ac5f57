/*
 * CloudEvents 1.0: in structured mode, or in binary mode with the attributes in headers. The
 * subject is the row's key as JSON, or a message's prefix; the data is what the native format says
 * about the change itself. An event of a table without a key has no subject.
 *
 * A domain event has its own id, type and data; its stream is the subject. What else it has are
 * extension attributes, among them the position that is the id of other events.
 */
#include "encode/cloudevents.h"

#include "base/base64.h"
#include "base/json.h"
#include "base/time.h"
#include "base/url.h"
#include "base/utf8.h"
#include "encode/quote.h"
#include "encode/row.h"
#include "encode/value.h"
#include "event/domain.h"
#include "event/uuid.h"

#define JSON_OID 114

/* How each event begins. */
#define HEAD "{\"specversion\":\"1.0\",\"id\":\""

static void put_specversion(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, "1.0");
}

static void put_position(const struct event *e, struct strbuf *out)
{
	position_print(e->position, strbuf_room(out, POSITION_LEN));
	out->n += POSITION_LEN;
}

static void put_id(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_EVENT)
		strbuf_str(out, domain_text(e, DOMAIN_ID));
	else
		put_position(e, out);
}

/* Behind the id, where cloudevents_position looks for it. */
static void put_log_position(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_EVENT)
		put_position(e, out);
}

#define PUT_DOMAIN(name, column)                                                                   \
	static void put_##name(const struct encode_options *o, const struct event *e,              \
			       struct strbuf *out)                                                 \
	{                                                                                          \
		if (e->action == ACTION_EVENT)                                                     \
			strbuf_str(out, domain_text(e, column));                                   \
	}

PUT_DOMAIN(category, DOMAIN_CATEGORY)
PUT_DOMAIN(version, DOMAIN_VERSION)
PUT_DOMAIN(topic, DOMAIN_TOPIC)
PUT_DOMAIN(metadata, DOMAIN_METADATA)

static bool is_unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_' || c == '~';
}

/* A segment of a URI's path: RFC 3986's unreserved characters, all else in percents. */
static void put_segment(struct str s, struct strbuf *out)
{
	strbuf_ch(out, '/');
	for (size_t i = 0; i < s.n; i++) {
		if (is_unreserved(s.p[i]))
			strbuf_ch(out, s.p[i]);
		else
			strbuf_printf(out, "%%%02X", (unsigned char)s.p[i]);
	}
}

static void put_source(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, "/pgherald");
	put_segment(e->source->db, out);
	if (!e->rel)
		return;
	put_segment(e->rel->schema, out);
	put_segment(e->rel->name, out);
}

static void put_type(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_EVENT) {
		strbuf_str(out, domain_text(e, DOMAIN_TYPE));
		return;
	}
	strbuf_lit(out, "pgherald.");
	if (e->rel) {
		strbuf_str(out, e->rel->schema);
		strbuf_ch(out, '.');
		strbuf_str(out, e->rel->name);
		strbuf_ch(out, '.');
	}
	strbuf_str(out, action_names[e->action]);
}

static void put_subject(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_MESSAGE)
		utf8_replace(out, e->prefix);
	else if (e->action == ACTION_EVENT)
		strbuf_str(out, domain_text(e, DOMAIN_STREAM));
	else
		encode_key(o, e, out);
}

static void put_time(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	time_print(out, e->time, 'T', 6);
	strbuf_ch(out, 'Z');
}

static void put_datacontenttype(const struct encode_options *o, const struct event *e,
				struct strbuf *out)
{
	strbuf_lit(out, "application/json");
}

const struct cloudevents_attribute cloudevents_attributes[] = {
	{ "specversion", put_specversion },
	{ "id", put_id },
	{ "position", put_log_position },
	{ "source", put_source },
	{ "type", put_type },
	{ "subject", put_subject },
	{ "time", put_time },
	{ "datacontenttype", put_datacontenttype },
	{ "category", put_category },
	{ "version", put_version },
	{ "topic", put_topic },
	{ "metadata", put_metadata },
	{ NULL, NULL },
};

static void end_list(char bracket, struct strbuf *out)
{
	if (out->p[out->n - 1] == ',')
		out->n--;
	strbuf_ch(out, bracket);
	strbuf_ch(out, ',');
}

static void put_row(const struct encode_options *o, const struct event *e,
		    const struct value *(*get)(const struct event *e, uint32_t i), struct strbuf *out)
{
	strbuf_ch(out, '{');
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct value *v = get(e, i);

		if (!v)
			continue;
		strbuf_str(out, e->rel->cols[i].field.key);
		value_column(o, &e->rel->cols[i], v, out);
		strbuf_ch(out, ',');
	}
	end_list('}', out);
}

static bool is_unchanged(const struct event *e, uint32_t i)
{
	return e->new[i].kind == VALUE_UNCHANGED;
}

/* Appends "name":[...] with the columns of which has() is true. */
static void put_names(const struct event *e, const char *name,
		      bool (*has)(const struct event *e, uint32_t i), struct strbuf *out)
{
	strbuf_printf(out, "\"%s\":[", name);
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		if (!has(e, i))
			continue;
		json_string(out, e->rel->cols[i].field.name);
		strbuf_ch(out, ',');
	}
	end_list(']', out);
}

static bool any_unchanged(const struct event *e)
{
	uint32_t n = e->new ? e->rel->ncols : 0;

	for (uint32_t i = 0; i < n; i++)
		if (is_unchanged(e, i))
			return true;
	return false;
}

static void put_change(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->new) {
		strbuf_lit(out, "\"new\":");
		put_row(o, e, row_new, out);
	}
	if (e->old) {
		strbuf_lit(out, "\"old\":");
		put_row(o, e, row_old, out);
	}
	if (e->new && e->old && e->old_full)
		put_names(e, "changed", event_column_changed, out);
	if (any_unchanged(e))
		put_names(e, "unchanged", is_unchanged, out);
	if (e->cascade)
		strbuf_lit(out, "\"cascade\":true,");
	if (e->restart_identity)
		strbuf_lit(out, "\"restart_identity\":true,");
}

/* Embedded where it is JSON, else a string; base64 where it is no text. */
static void put_message(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	strbuf_lit(out, "\"prefix\":");
	json_string_checked(out, e->prefix);
	strbuf_lit(out, ",\"content\":");
	if (utf8_valid(e->content)) {
		const struct type *type = json_valid(e->content) ? type_builtin(JSON_OID)
								 : &type_unknown;

		value_json(o, type, e->content, out);
	} else {
		strbuf_ch(out, '"');
		base64_encode(out, e->content);
		strbuf_lit(out, "\",\"encoding\":\"base64\"");
	}
	strbuf_printf(out, ",\"transactional\":%s,", e->transactional ? "true" : "false");
}

void cloudevents_data(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	if (e->action == ACTION_EVENT) {
		value_column(o, &e->rel->cols[DOMAIN_DATA], &e->new[DOMAIN_DATA], out);
		return;
	}
	strbuf_ch(out, '{');
	if (e->action == ACTION_MESSAGE)
		put_message(o, e, out);
	else
		put_change(o, e, out);
	end_list('}', out);
	out->n--;
}

static void put_header(const struct header_style *style, const char *name, struct str value,
		       struct strbuf *out)
{
	bool is_type = strcmp(name, "datacontenttype") == 0;

	if (value.n == 0 || (is_type && !style->type))
		return;
	strbuf_printf(out, "%s%s", is_type ? "" : style->prefix, is_type ? style->type : name);
	strbuf_ch(out, '\0');
	if (style->escaped)
		url_escape_header(out, value);
	else
		strbuf_str(out, value);
	strbuf_ch(out, '\0');
}

static void cloudevents_headers(const struct encode_options *o, const struct event *e,
				struct strbuf *out)
{
	struct strbuf value = { 0 };

	for (const struct cloudevents_attribute *a = cloudevents_attributes; a->name; a++) {
		value.n = 0;
		a->value(o, e, &value);
		put_header(o->headers, a->name, strbuf_view(&value), out);
	}
	strbuf_release(&value);
}

static bool cloudevents_event(const struct encode_options *o, const struct event *e,
			      struct strbuf *out)
{
	if (!(ACTION_BIT(e->action) & ACTIONS_ALL))
		return false;
	if (o->headers) {
		cloudevents_data(o, e, out);
		return true;
	}
	strbuf_ch(out, '{');
	for (const struct cloudevents_attribute *a = cloudevents_attributes; a->name; a++) {
		size_t before = out->n, at;

		strbuf_ch(out, '"');
		strbuf_str(out, str_c(a->name));
		strbuf_lit(out, "\":");
		at = out->n;
		a->value(o, e, out);
		if (out->n == at) {
			out->n = before;
			continue;
		}
		quote_since(out, at);
		strbuf_ch(out, ',');
	}
	strbuf_lit(out, "\"data\":");
	cloudevents_data(o, e, out);
	strbuf_ch(out, '}');
	return true;
}

static bool cloudevents_position(struct str message, struct position *p)
{
	struct str behind = STR("\",\"position\":\"");

	if (!str_starts(message, STR(HEAD)))
		return false;
	message = str_from(message, sizeof(HEAD) - 1);
	if (message.n > UUID_LEN && str_starts(str_from(message, UUID_LEN), behind))
		message = str_from(message, UUID_LEN + behind.n);
	return message.n >= POSITION_LEN &&
	       position_parse((struct str){ message.p, POSITION_LEN }, p);
}

const struct format format_cloudevents = {
	.name = "cloudevents",
	.help = "CloudEvents 1.0",
	.event = cloudevents_event,
	.headers = cloudevents_headers,
	.position = cloudevents_position,
};
