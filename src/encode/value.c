#include "encode/value.h"

#include "base/base64.h"
#include "base/json.h"
#include "base/time.h"
#include "decode/literal.h"

/* Composites in composites in arrays: deeper than this is shown as text. */
#define MAX_NESTING 32

struct writer {
	const struct encode_options *o;
	int depth;
};

typedef bool write_fn(const struct writer *w, const struct type *t, struct str text,
		      struct strbuf *out);

static void write_value(const struct writer *w, const struct type *t, struct str text,
			struct strbuf *out);

static bool write_string(const struct writer *w, const struct type *t, struct str text,
			 struct strbuf *out)
{
	json_string(out, text);
	return true;
}

static bool write_bool(const struct writer *w, const struct type *t, struct str text,
		       struct strbuf *out)
{
	if (text.n != 1 || (*text.p != 't' && *text.p != 'f'))
		return false;
	strbuf_str(out, *text.p == 't' ? STR("true") : STR("false"));
	return true;
}

/* Whether the text is a number as JSON writes it. PostgreSQL's numbers are, but for NaN and the
 * infinities. */
static bool is_number(struct str s)
{
	const char *p = s.p, *end = s.p + s.n;
	bool digits = false;

	p += p < end && *p == '-';
	if (end - p > 1 && p[0] == '0' && p[1] != '.')
		return false;
	for (; p < end && *p >= '0' && *p <= '9'; p++)
		digits = true;
	return digits && (p == end || (end[-1] >= '0' && end[-1] <= '9' && json_valid(s)));
}

static bool write_number(const struct writer *w, const struct type *t, struct str text,
			 struct strbuf *out)
{
	if (!is_number(text))
		return false;
	strbuf_str(out, text);
	return true;
}

static bool write_int8(const struct writer *w, const struct type *t, struct str text,
		       struct strbuf *out)
{
	return w->o->int8 == NUMBER_JSON && write_number(w, t, text, out);
}

static bool write_numeric(const struct writer *w, const struct type *t, struct str text,
			  struct strbuf *out)
{
	return w->o->numeric == NUMBER_JSON && write_number(w, t, text, out);
}

static void put_signed(struct strbuf *out, int64_t v)
{
	if (v < 0)
		strbuf_ch(out, '-');
	json_uint(out, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

static bool put_epoch(int64_t us, struct strbuf *out)
{
	put_signed(out, us);
	return true;
}

static bool write_date(const struct writer *w, const struct type *t, struct str text,
		       struct strbuf *out)
{
	int64_t days, us;

	return w->o->timestamps == TIME_EPOCH_US && time_parse_date(text, &days) &&
	       !__builtin_mul_overflow(days, TIME_DAY, &us) && put_epoch(us, out);
}

/* Whether the text is made of what times are made of, so that it needs no escaping. */
static bool is_time(struct str s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] < ' ' || s.p[i] > 'C' || s.p[i] == '"')
			return false;
	return true;
}

/* "2020-01-02 03:04:05.6+00 BC" with a T for the blank and, where there is a zone, ":00" behind
 * it. The session's zone is UTC, so it is always "+00". */
static bool write_timestamp(const struct writer *w, const struct type *t, struct str text,
			    struct strbuf *out)
{
	const char *blank = text.n ? memchr(text.p, ' ', text.n) : NULL;
	const char *zone;
	size_t date;
	int64_t us;

	if (w->o->timestamps == TIME_EPOCH_US && time_parse_timestamp(text, &us))
		return put_epoch(us, out);
	if (!blank || !is_time(text))
		return false;
	date = (size_t)(blank - text.p);
	zone = t->kind == TYPE_TIMESTAMPTZ ? memmem(blank, text.n - date, "+00", 3) : NULL;
	strbuf_ch(out, '"');
	strbuf_add(out, text.p, date);
	strbuf_ch(out, 'T');
	text = str_from(text, date + 1);
	if (zone) {
		size_t n = (size_t)(zone + 3 - text.p);

		strbuf_add(out, text.p, n);
		strbuf_lit(out, ":00");
		text = str_from(text, n);
	}
	strbuf_str(out, text);
	strbuf_ch(out, '"');
	return true;
}

static bool write_bytea(const struct writer *w, const struct type *t, struct str text,
			struct strbuf *out)
{
	if (w->o->bytea != BYTEA_BASE64 || text.n < 2)
		return false;
	strbuf_ch(out, '"');
	if (!base64_encode_hex(out, str_from(text, 2)))
		return false;
	strbuf_ch(out, '"');
	return true;
}

/* Verbatim. Newlines stand only between JSON's tokens, where they are as good as blanks. */
static bool write_json(const struct writer *w, const struct type *t, struct str text,
		       struct strbuf *out)
{
	char *p;

	if (text.n == 0)
		return false;
	p = strbuf_room(out, text.n);
	memcpy(p, text.p, text.n);
	out->n += text.n;
	if (t->kind == TYPE_JSONB)
		return true;
	for (size_t i = 0; i < text.n; i++)
		if (p[i] == '\n' || p[i] == '\r')
			p[i] = ' ';
	return true;
}

/* An element of an array that stood in quotes. */
static void write_quoted(const struct writer *w, const struct type *t, struct str quoted,
			 struct strbuf *scratch, struct strbuf *out)
{
	if (!memchr(quoted.p, '\\', quoted.n)) {
		write_value(w, t, quoted, out);
		return;
	}
	scratch->n = 0;
	literal_unquote(quoted, scratch);
	write_value(w, t, strbuf_view(scratch), out);
}

static bool write_array(const struct writer *w, const struct type *t, struct str text,
			struct strbuf *out)
{
	struct literal_array a;
	struct strbuf scratch = { 0 };
	enum literal_token token;
	struct str value;

	literal_array_init(&a, text, t->elem->delim);
	while ((token = literal_array_next(&a, &value)) != LITERAL_END && token != LITERAL_BAD) {
		if (a.comma)
			strbuf_ch(out, ',');
		if (token == LITERAL_OPEN)
			strbuf_ch(out, '[');
		else if (token == LITERAL_CLOSE)
			strbuf_ch(out, ']');
		else if (token == LITERAL_NULL)
			strbuf_lit(out, "null");
		else if (token == LITERAL_QUOTED)
			write_quoted(w, t->elem, value, &scratch, out);
		else
			write_value(w, t->elem, value, out);
	}
	strbuf_release(&scratch);
	return token == LITERAL_END;
}

/* int2vector and oidvector: "1 2 3". */
static bool write_vector(const struct writer *w, const struct type *t, struct str text,
			 struct strbuf *out)
{
	strbuf_ch(out, '[');
	for (bool first = true; text.n; first = false) {
		const char *blank = memchr(text.p, ' ', text.n);
		size_t n = blank ? (size_t)(blank - text.p) : text.n;

		if (!first)
			strbuf_ch(out, ',');
		write_value(w, t->elem, (struct str){ text.p, n }, out);
		text = str_from(text, blank ? n + 1 : n);
	}
	strbuf_ch(out, ']');
	return true;
}

static bool write_record(const struct writer *w, const struct type *t, struct str text,
			 struct strbuf *out)
{
	struct literal_record r;
	struct strbuf scratch = { 0 };
	enum literal_token token = LITERAL_VALUE;
	struct str value;
	bool whole;

	strbuf_ch(out, '{');
	literal_record_init(&r, text);
	for (uint32_t i = 0; i < t->nfields; i++) {
		scratch.n = 0;
		token = literal_record_next(&r, &scratch, &value);
		if (token != LITERAL_VALUE && token != LITERAL_NULL)
			break;
		if (i)
			strbuf_ch(out, ',');
		strbuf_str(out, t->fields[i].key);
		if (token == LITERAL_NULL)
			strbuf_lit(out, "null");
		else
			write_value(w, t->fields[i].type, value, out);
	}
	strbuf_ch(out, '}');
	whole = t->nfields ? literal_record_next(&r, &scratch, &value) == LITERAL_END
			   : str_eq(text, STR("()"));
	strbuf_release(&scratch);
	return whole;
}

static bool write_hstore(const struct writer *w, const struct type *t, struct str text,
			 struct strbuf *out)
{
	struct literal_hstore h;
	struct strbuf scratch = { 0 };
	enum literal_token token;
	struct str key, value;
	bool first = true;

	strbuf_ch(out, '{');
	literal_hstore_init(&h, text);
	for (;; first = false) {
		scratch.n = 0;
		token = literal_hstore_next(&h, &scratch, &key, &value);
		if (token != LITERAL_VALUE && token != LITERAL_NULL)
			break;
		if (!first)
			strbuf_ch(out, ',');
		json_string(out, key);
		strbuf_ch(out, ':');
		if (token == LITERAL_NULL)
			strbuf_lit(out, "null");
		else
			json_string(out, value);
	}
	strbuf_ch(out, '}');
	strbuf_release(&scratch);
	return token == LITERAL_END;
}

/* Each appends one JSON value, or returns false: then the text is shown as a string. */
static write_fn *const writers[] = {
	[TYPE_TEXT] = write_string,
	[TYPE_BOOL] = write_bool,
	[TYPE_INT] = write_number,
	[TYPE_INT8] = write_int8,
	[TYPE_NUMERIC] = write_numeric,
	[TYPE_FLOAT] = write_number,
	[TYPE_DATE] = write_date,
	[TYPE_TIMESTAMP] = write_timestamp,
	[TYPE_TIMESTAMPTZ] = write_timestamp,
	[TYPE_BYTEA] = write_bytea,
	[TYPE_JSON] = write_json,
	[TYPE_JSONB] = write_json,
	[TYPE_ARRAY] = write_array,
	[TYPE_VECTOR] = write_vector,
	[TYPE_RECORD] = write_record,
	[TYPE_HSTORE] = write_hstore,
	[TYPE_RANGE] = write_string,
	[TYPE_MULTIRANGE] = write_string,
};

static void write_value(const struct writer *w, const struct type *t, struct str text,
			struct strbuf *out)
{
	struct writer deeper = { w->o, w->depth + 1 };
	size_t at = out->n;

	if (deeper.depth <= MAX_NESTING && writers[t->kind](&deeper, t, text, out))
		return;
	out->n = at;
	json_string(out, text);
}

void value_json(const struct encode_options *o, const struct type *type, struct str text,
		struct strbuf *out)
{
	struct writer w = { o, 0 };

	write_value(&w, type, text, out);
}
