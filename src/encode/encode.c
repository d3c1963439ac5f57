#include "encode/encode.h"

#include "encode/value.h"

const struct format *const encode_formats[] = {
	&format_native,   &format_pretty,      &format_pgevents, &format_wal_listener,
	&format_wal2json, &format_cloudevents, &format_debezium, NULL,
};

const struct format *encode_format(const char *name)
{
	for (size_t i = 0; encode_formats[i]; i++)
		if (strcmp(encode_formats[i]->name, name) == 0)
			return encode_formats[i];
	return NULL;
}

static bool in_key(const struct encode_options *o, const struct column *c)
{
	for (size_t i = 0; i < o->nkey_columns; i++)
		if (str_eq(str_c(o->key_columns[i]), c->field.name))
			return true;
	return o->nkey_columns == 0 && c->primary;
}

const struct value *encode_key_value(const struct encode_options *o, const struct event *e, uint32_t i)
{
	return in_key(o, &e->rel->cols[i]) ? event_key_value(e, i) : NULL;
}

void encode_key(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	size_t at = out->n;
	char next = '{';

	if (!e->rel)
		return;
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct column *c = &e->rel->cols[i];
		const struct value *v = encode_key_value(o, e, i);

		if (!v || v->kind == VALUE_UNCHANGED)
			continue;
		strbuf_ch(out, next);
		next = ',';
		strbuf_str(out, c->field.key);
		value_column(o, c, v, out);
	}
	if (out->n > at)
		strbuf_ch(out, '}');
}

static bool letter_position(struct str message, struct position *p)
{
	return message.n > 7 + POSITION_LEN && str_starts(message, STR("{\"id\":\"")) &&
	       position_parse((struct str){ message.p + 7, POSITION_LEN }, p);
}

const struct format format_dead_letter = { .name = "dead-letter", .position = letter_position };
