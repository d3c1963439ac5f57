/*
 * The rules, by option (the first is the default):
 *
 *   decimal_mode   precise  base64 of the unscaled two's complement, big-endian; for a numeric
 *                           without a declared scale {"scale":n,"value":that}
 *                  double   the nearest double
 *                  string   digits; NAN, POSITIVE_INFINITY, NEGATIVE_INFINITY
 *   time_precision adaptive date: days; time and timestamp: microseconds, or milliseconds where
 *                           three or fewer digits are declared
 *                  connect  days and milliseconds
 *                  isostring ISO 8601 with Z
 *   interval_mode  numeric  microseconds, a month counted as 365.25 / 12 days
 *                  string   P1Y2M3DT4H5M6.78S
 *   binary_mode    bytes, base64: base64; hex
 *   hstore_mode    json     a string that holds JSON
 *                  map      an object
 *
 * Always: timestamptz and timetz ISO 8601 in UTC with Z, the former with as many digits as its type
 * has; json, jsonb, xml and uuid strings; oid a number; bit(1) a boolean, other bit strings base64
 * of bytes, least significant first; point an object; arrays JSON arrays of their elements by these
 * rules; all else as value.h has it. What a rule cannot express (a date of infinity in days, NaN
 * as bytes, a timestamp that 64 bits of microseconds do not hold) is PostgreSQL's text as a string.
 */
#include "encode/debezium_value.h"

#include "base/base64.h"
#include "base/decimal.h"
#include "base/json.h"
#include "base/time.h"
#include "decode/literal.h"
#include "encode/quote.h"
#include "encode/value.h"

#include <endian.h>
#include <inttypes.h>

#define INT4_OID 23
#define FLOAT8_OID 701

#define UNAVAILABLE "__debezium_unavailable_value"

/* What the JDBC driver that Debezium reads with gives for infinite timestamps. */
#define POSITIVE_INFINITY INT64_C(9223372036825200000)
#define NEGATIVE_INFINITY INT64_C(-9223372036832400000)

/* 365.25 / 12 days. */
#define MONTH (INT64_C(2629800) * TIME_SECOND)

/* For values that value.h writes: only options of this format count. */
static const struct encode_options usual;

struct call {
	const struct encode_options *o;
	const struct type *type;
	int32_t typmod;
	struct str text;
};

static bool is(const char *mode, const char *name)
{
	return mode && strcmp(mode, name) == 0;
}

static void put_int(struct strbuf *out, int64_t v)
{
	if (v < 0)
		strbuf_ch(out, '-');
	json_uint(out, v < 0 ? -(uint64_t)v : (uint64_t)v);
}

static int64_t to_ms(int64_t us)
{
	return us / 1000 - (us % 1000 < 0);
}

/* The writers: each appends the call's text as JSON, or appends nothing and returns false, upon
 * which the text is shown as a string. */

static bool put_usual(const struct call *c, struct strbuf *out)
{
	value_json(&usual, c->type, c->text, out);
	return true;
}

static bool put_text(const struct call *c, struct strbuf *out)
{
	return false;
}

static bool put_oid(const struct call *c, struct strbuf *out)
{
	value_json(&usual, type_builtin(INT4_OID), c->text, out);
	return true;
}

static bool put_double(struct str text, struct strbuf *out)
{
	double v;

	if (!decimal_double(out, text, &v))
		return false;
	decimal_print(out, v);
	return true;
}

static void put_decimal_string(struct str text, struct strbuf *out)
{
	static const struct {
		struct str text;
		struct str as;
	} specials[] = {
		{ STR("NaN"), STR("NAN") },
		{ STR("Infinity"), STR("POSITIVE_INFINITY") },
		{ STR("-Infinity"), STR("NEGATIVE_INFINITY") },
	};

	for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++)
		if (str_eq(text, specials[i].text))
			text = specials[i].as;
	json_string(out, text);
}

static bool put_unscaled(struct str text, struct strbuf *out)
{
	strbuf_ch(out, '"');
	if (!decimal_base64(out, text)) {
		out->n--;
		return false;
	}
	strbuf_ch(out, '"');
	return true;
}

static bool put_with_scale(struct str text, struct strbuf *out)
{
	uint32_t scale;

	if (!decimal_scale(text, &scale))
		return false;
	strbuf_lit(out, "{\"scale\":");
	json_uint(out, scale);
	strbuf_lit(out, ",\"value\":");
	put_unscaled(text, out);
	strbuf_ch(out, '}');
	return true;
}

static bool put_decimal(const struct encode_options *o, struct str text, bool scaled,
			struct strbuf *out)
{
	if (is(o->decimal_mode, "double"))
		return put_double(text, out);
	if (!is(o->decimal_mode, "string"))
		return scaled ? put_unscaled(text, out) : put_with_scale(text, out);
	put_decimal_string(text, out);
	return true;
}

/* The scale that the type modifier declares is that of the text, but for numeric(3,-2): there the
 * text ends with zeros that are no part of the unscaled value. */
static bool put_numeric(const struct call *c, struct strbuf *out)
{
	int scale = (((c->typmod - 4) & 0x7ff) ^ 1024) - 1024;
	size_t zeros = c->typmod >= 4 && scale < 0 ? (size_t)-scale : 0;
	bool precise = !is(c->o->decimal_mode, "double") && !is(c->o->decimal_mode, "string");
	struct str text = c->text;

	if (precise && text.n > zeros + 1)
		text.n -= zeros;
	return put_decimal(c->o, text, c->typmod >= 4, out);
}

/* "-$1,234.50" in the locale of the server's lc_monetary: two digits behind the last point or comma
 * are cents, which Debezium expects too unless told otherwise. */
static bool put_money(const struct call *c, struct strbuf *out)
{
	char number[40] = "-";
	size_t n = 1, since_mark = 0;
	bool negative = false, cents;

	for (size_t i = 0; i < c->text.n && n < sizeof(number) - 4; i++) {
		char ch = c->text.p[i];

		if (ch >= '0' && ch <= '9') {
			number[n++] = ch;
			since_mark += since_mark > 0;
		} else if ((ch == '.' || ch == ',') && n > 1) {
			since_mark = 1;
		}
		negative |= ch == '-' || ch == '(';
	}
	if (n == 1)
		return false;
	cents = since_mark == 3;
	memcpy(number + n, cents ? "" : "00", cents ? 0 : 2);
	n += cents ? 0 : 2;
	memmove(number + n - 1, number + n - 2, 2);
	number[n - 2] = '.';
	return put_decimal(c->o, (struct str){ number + !negative, n + 1 - !negative }, true, out);
}

static bool put_date(const struct call *c, struct strbuf *out)
{
	int64_t days;

	if (!time_parse_date(c->text, &days))
		return false;
	if (!is(c->o->time_precision, "isostring")) {
		put_int(out, days);
		return true;
	}
	strbuf_ch(out, '"');
	time_print_date(out, days);
	strbuf_lit(out, "Z\"");
	return true;
}

/* Whether a time or timestamp of this precision is shown in milliseconds. */
static bool in_ms(const struct call *c)
{
	return is(c->o->time_precision, "connect") || (c->typmod >= 0 && c->typmod <= 3);
}

static void put_instant(int64_t us, int digits, struct strbuf *out)
{
	strbuf_ch(out, '"');
	time_print(out, us, 'T', digits);
	strbuf_lit(out, "Z\"");
}

static bool put_timestamp(const struct call *c, struct strbuf *out)
{
	int infinite = time_infinite(c->text);
	bool iso = is(c->o->time_precision, "isostring");
	int64_t us = infinite > 0 ? POSITIVE_INFINITY : NEGATIVE_INFINITY;

	if ((iso && infinite) || (!infinite && !time_parse_timestamp(c->text, &us)))
		return false;
	if (iso)
		put_instant(us, TIME_TRIM, out);
	else
		put_int(out, in_ms(c) ? to_ms(us) : us);
	return true;
}

static bool put_timestamptz(const struct call *c, struct strbuf *out)
{
	int64_t us;

	if (!time_parse_timestamp(c->text, &us))
		return false;
	put_instant(us, c->typmod >= 0 && c->typmod <= 6 ? c->typmod : 6, out);
	return true;
}

static void put_clock(int64_t us, struct strbuf *out)
{
	strbuf_ch(out, '"');
	time_print_clock(out, us, TIME_TRIM);
	strbuf_lit(out, "Z\"");
}

static bool put_time(const struct call *c, struct strbuf *out)
{
	int32_t east;
	int64_t us;

	if (!time_parse_clock(c->text, &us, &east))
		return false;
	if (is(c->o->time_precision, "isostring"))
		put_clock(us, out);
	else
		put_int(out, in_ms(c) ? us / 1000 : us);
	return true;
}

/* Moved to UTC, round the clock where need be; 24:00 stays only in UTC itself. */
static bool put_timetz(const struct call *c, struct strbuf *out)
{
	int32_t east;
	int64_t us;

	if (!time_parse_clock(c->text, &us, &east))
		return false;
	if (east)
		us = ((us - east * TIME_SECOND) % TIME_DAY + TIME_DAY) % TIME_DAY;
	put_clock(us, out);
	return true;
}

static void put_interval_text(const struct time_interval *iv, struct strbuf *out)
{
	int64_t seconds = iv->us / TIME_SECOND, fraction = iv->us % TIME_SECOND;

	strbuf_printf(out, "\"P%" PRId64 "Y%" PRId64 "M%" PRId64 "DT%" PRId64 "H%" PRId64 "M",
		      iv->months / 12, iv->months % 12, iv->days, seconds / 3600, seconds / 60 % 60);
	strbuf_printf(out, "%s%" PRId64, iv->us < 0 && seconds % 60 == 0 && fraction ? "-" : "",
		      seconds % 60);
	if (fraction) {
		strbuf_printf(out, ".%06" PRId64, fraction < 0 ? -fraction : fraction);
		while (out->p[out->n - 1] == '0')
			out->n--;
	}
	strbuf_lit(out, "S\"");
}

static bool put_interval(const struct call *c, struct strbuf *out)
{
	struct time_interval iv;
	int64_t us, days;

	if (!time_parse_interval(c->text, &iv))
		return false;
	if (is(c->o->interval_mode, "string")) {
		put_interval_text(&iv, out);
		return true;
	}
	if (__builtin_mul_overflow(iv.months, MONTH, &us) ||
	    __builtin_mul_overflow(iv.days, TIME_DAY, &days) ||
	    __builtin_add_overflow(us, days, &us) || __builtin_add_overflow(us, iv.us, &us))
		return false;
	put_int(out, us);
	return true;
}

void debezium_value_bytes(const struct encode_options *o, struct str bytes, struct strbuf *out)
{
	static const char digits[] = "0123456789abcdef";

	strbuf_ch(out, '"');
	if (!is(o->binary_mode, "hex"))
		base64_encode(out, bytes);
	else
		for (size_t i = 0; i < bytes.n; i++) {
			strbuf_ch(out, digits[(unsigned char)bytes.p[i] >> 4]);
			strbuf_ch(out, digits[bytes.p[i] & 15]);
		}
	strbuf_ch(out, '"');
}

static bool put_bytea(const struct call *c, struct strbuf *out)
{
	struct str hex = c->text;

	if (!str_starts(hex, STR("\\x")))
		return false;
	hex = str_from(hex, 2);
	if (is(c->o->binary_mode, "hex")) {
		json_string(out, hex);
		return true;
	}
	strbuf_ch(out, '"');
	if (!base64_encode_hex(out, hex)) {
		out->n--;
		return false;
	}
	strbuf_ch(out, '"');
	return true;
}

static bool put_hstore(const struct call *c, struct strbuf *out)
{
	size_t at = out->n;

	value_json(&usual, c->type, c->text, out);
	if (!is(c->o->hstore_mode, "map"))
		quote_since(out, at);
	return true;
}

/* One bit is a boolean; more are bytes whose first holds the last eight bits, without zero bytes at
 * their end. */
static bool put_bits(const struct call *c, struct strbuf *out)
{
	struct str bits = c->text;
	char *bytes;
	size_t n;

	if (c->typmod == 1) {
		strbuf_str(out, str_eq(bits, STR("1")) ? STR("true") : STR("false"));
		return true;
	}
	while (bits.n && bits.p[0] == '0')
		bits = str_from(bits, 1);
	n = (bits.n + 7) / 8;
	strbuf_ch(out, '"');
	/* The bytes stand behind the place of their base64 meanwhile. */
	bytes = strbuf_room(out, 3 * n + 4) + 2 * n + 4;
	memset(bytes, 0, n);
	for (size_t i = 0; i < bits.n; i++)
		if (bits.p[bits.n - 1 - i] == '1')
			bytes[i / 8] = (char)(bytes[i / 8] | 1 << i % 8);
	base64_encode(out, (struct str){ bytes, n });
	strbuf_ch(out, '"');
	return true;
}

static void put_le(double v, char out[8])
{
	uint64_t bits;

	memcpy(&bits, &v, 8);
	bits = htole64(bits);
	memcpy(out, &bits, 8);
}

/* "(1.5,-2)"; wkb is the same as well-known binary: byte order 1, type 1, x, y. */
static bool put_point(const struct call *c, struct strbuf *out)
{
	const char *comma = c->text.n > 2 ? memchr(c->text.p + 1, ',', c->text.n - 2) : NULL;
	char wkb[21] = { 1, 1 };
	struct str x, y;
	double v;

	if (!comma)
		return false;
	x = (struct str){ c->text.p + 1, (size_t)(comma - c->text.p) - 1 };
	y = (struct str){ comma + 1, c->text.n - x.n - 3 };
	if (!decimal_double(out, x, &v))
		return false;
	put_le(v, wkb + 5);
	if (!decimal_double(out, y, &v))
		return false;
	put_le(v, wkb + 13);
	strbuf_lit(out, "{\"x\":");
	value_json(&usual, type_builtin(FLOAT8_OID), x, out);
	strbuf_lit(out, ",\"y\":");
	value_json(&usual, type_builtin(FLOAT8_OID), y, out);
	strbuf_lit(out, ",\"wkb\":\"");
	base64_encode(out, (struct str){ wkb, sizeof(wkb) });
	strbuf_lit(out, "\",\"srid\":null}");
	return true;
}

static bool put_array(const struct call *c, struct strbuf *out);

static bool (*const by_kind[])(const struct call *c, struct strbuf *out) = {
	[TYPE_TEXT] = put_text,
	[TYPE_BOOL] = put_usual,
	[TYPE_INT] = put_usual,
	[TYPE_INT8] = put_usual,
	[TYPE_NUMERIC] = put_numeric,
	[TYPE_FLOAT] = put_usual,
	[TYPE_DATE] = put_date,
	[TYPE_TIMESTAMP] = put_timestamp,
	[TYPE_TIMESTAMPTZ] = put_timestamptz,
	[TYPE_BYTEA] = put_bytea,
	[TYPE_JSON] = put_text,
	[TYPE_JSONB] = put_text,
	[TYPE_ARRAY] = put_array,
	[TYPE_VECTOR] = put_usual,
	[TYPE_RECORD] = put_usual,
	[TYPE_HSTORE] = put_hstore,
	[TYPE_RANGE] = put_text,
	[TYPE_MULTIRANGE] = put_text,
};

/* Types of kind TYPE_TEXT with a rule of their own. */
static const struct {
	uint32_t oid;
	bool (*put)(const struct call *c, struct strbuf *out);
} by_oid[] = {
	{ 26, put_oid },        { 600, put_point },   { 790, put_money }, { 1083, put_time },
	{ 1186, put_interval }, { 1266, put_timetz }, { 1560, put_bits }, { 1562, put_bits },
};

static void put_call(const struct call *c, struct strbuf *out)
{
	bool (*put)(const struct call *c, struct strbuf *out) = by_kind[c->type->kind];

	for (size_t i = 0; put == put_text && i < sizeof(by_oid) / sizeof(by_oid[0]); i++)
		if (by_oid[i].oid == c->type->base)
			put = by_oid[i].put;
	if (!put(c, out))
		json_string(out, c->text);
}

/* A value between an array's quotes, or one that needed none. */
static void put_element(struct call *element, bool quoted, struct strbuf *scratch, struct strbuf *out)
{
	if (quoted && memchr(element->text.p, '\\', element->text.n)) {
		scratch->n = 0;
		literal_unquote(element->text, scratch);
		element->text = strbuf_view(scratch);
	}
	put_call(element, out);
}

static bool put_array(const struct call *c, struct strbuf *out)
{
	struct call element = { c->o, c->type->elem, c->typmod, c->text };
	struct literal_array a;
	struct strbuf scratch = { 0 };
	enum literal_token token;
	size_t at = out->n;

	literal_array_init(&a, c->text, c->type->elem->delim);
	while ((token = literal_array_next(&a, &element.text)) != LITERAL_END &&
	       token != LITERAL_BAD) {
		if (a.comma)
			strbuf_ch(out, ',');
		if (token == LITERAL_OPEN)
			strbuf_ch(out, '[');
		else if (token == LITERAL_CLOSE)
			strbuf_ch(out, ']');
		else if (token == LITERAL_NULL)
			strbuf_lit(out, "null");
		else
			put_element(&element, token == LITERAL_QUOTED, &scratch, out);
	}
	strbuf_release(&scratch);
	if (token == LITERAL_BAD)
		out->n = at;
	return token == LITERAL_END;
}

void debezium_value(const struct encode_options *o, const struct column *c, const struct value *v,
		    struct strbuf *out)
{
	struct call call = { o, c->field.type, c->typmod, value_str(v) };

	if (v->kind == VALUE_NULL)
		strbuf_lit(out, "null");
	else
		put_call(&call, out);
}

static bool shown_as_number(const struct encode_options *o, const struct type *type)
{
	if (type->kind == TYPE_DATE || type->kind == TYPE_TIMESTAMP)
		return !is(o->time_precision, "isostring");
	return type->kind == TYPE_INT || type->kind == TYPE_INT8 || type->kind == TYPE_FLOAT;
}

/* An array of numbers has the placeholder's bytes, one a number; any other has the placeholder. */
static void put_unavailable_array(const struct encode_options *o, const struct type *elem,
				  struct strbuf *out)
{
	strbuf_ch(out, '[');
	if (!shown_as_number(o, elem)) {
		debezium_value_unavailable(o, elem, out);
	} else {
		for (const char *p = UNAVAILABLE; *p; p++) {
			json_uint(out, (unsigned char)*p);
			strbuf_ch(out, ',');
		}
		out->n--;
	}
	strbuf_ch(out, ']');
}

void debezium_value_unavailable(const struct encode_options *o, const struct type *type,
				struct strbuf *out)
{
	bool bytes = !is(o->binary_mode, "base64") && !is(o->binary_mode, "hex");
	size_t at = out->n;

	if (type->kind == TYPE_ARRAY) {
		put_unavailable_array(o, type->elem, out);
	} else if (type->kind == TYPE_BYTEA && bytes) {
		debezium_value_bytes(o, STR(UNAVAILABLE), out);
	} else if (type->kind == TYPE_HSTORE) {
		strbuf_lit(out, "{\"" UNAVAILABLE "\":\"" UNAVAILABLE "\"}");
		if (!is(o->hstore_mode, "map"))
			quote_since(out, at);
	} else {
		strbuf_lit(out, "\"" UNAVAILABLE "\"");
	}
}
