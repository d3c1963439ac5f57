/*
 * Values as JSON: what PostgreSQL's to_jsonb(row) gives with TimeZone = UTC. The input is
 * PostgreSQL's text form under the session settings that pg/conn pins (DateStyle ISO, TimeZone
 * UTC, IntervalStyle postgres, bytea_output hex, extra_float_digits 3). Digits are copied, never
 * converted. Text that does not fit its type (never seen from a healthy server) becomes a string,
 * so the result is always one valid JSON value.
 */
#ifndef PGHERALD_VALUE_H
#define PGHERALD_VALUE_H

#include "encode/encode.h"

/* Appends text of this type as one JSON value. No newline is ever written: one inside a json
 * value (where it is white space) becomes a blank. */
void value_json(const struct encode_options *o, const struct type *type, struct str text,
		struct strbuf *out);

/* The same for a column's value; VALUE_NULL gives null. Not for VALUE_UNCHANGED. */
static inline void value_column(const struct encode_options *o, const struct column *c,
				const struct value *v, struct strbuf *out)
{
	if (v->kind == VALUE_NULL)
		strbuf_lit(out, "null");
	else
		value_json(o, c->field.type, value_str(v), out);
}

#endif
