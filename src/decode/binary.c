/*
 * What is built of other values:
 *
 *   array       ndim4 hasnull4 elemtype4 { length4 lower4 } { n4 value }, n = -1 for null
 *   record      n4 { type4 n4 value }
 *   range       flags1 [ n4 lower ] [ n4 upper ]
 *   multirange  n4 { n4 range }
 */
#include "decode/binary.h"

#include "decode/binary_scalar.h"

#include <strings.h>

/* Deeper nesting is refused. */
#define MAX_DEPTH 32
#define MAX_DIMENSIONS 6

enum range_flags { RANGE_EMPTY = 1, LOWER_INC = 2, UPPER_INC = 4, LOWER_INF = 8, UPPER_INF = 16 };

static int put_value(const struct type *t, struct str bytes, struct strbuf *out, int depth);

/* Quotes what has been written from `at` on, where it is empty or has one of these characters or
 * white space in it. Quotes and backslashes inside get `quote` or a backslash before them. */
static void quote_from(struct strbuf *out, size_t at, const char *special, char quote)
{
	struct strbuf plain = { 0 };
	bool needed = out->n == at;

	for (size_t i = at; i < out->n && !needed; i++)
		needed = out->p[i] && strchr(special, out->p[i]);
	if (!needed)
		return;
	strbuf_add(&plain, out->p + at, out->n - at);
	out->n = at;
	strbuf_ch(out, '"');
	for (size_t i = 0; i < plain.n; i++) {
		if (plain.p[i] == '"' || plain.p[i] == '\\')
			strbuf_ch(out, plain.p[i] == '"' ? quote : '\\');
		strbuf_ch(out, plain.p[i]);
	}
	strbuf_ch(out, '"');
	strbuf_release(&plain);
}

/* A value behind its length. Returns -1 when it cannot be read, 1 for null. */
static int put_sized(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	uint32_t n = cursor_u32(c);

	if (n == UINT32_MAX)
		return 1;
	return put_value(t, cursor_bytes(c, n), out, depth) || c->bad ? -1 : 0;
}

static int put_element(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	char special[] = "\"\\{} \t\n\r\v\f,";
	size_t at = out->n;
	int result = put_sized(t, c, out, depth);

	special[sizeof(special) - 2] = t->delim;
	if (result == 1)
		strbuf_lit(out, "NULL");
	else if (out->n - at == 4 && strncasecmp(out->p + at, "null", 4) == 0)
		quote_from(out, at, "nN", '\\');
	else
		quote_from(out, at, special, '\\');
	return result < 0 ? -1 : 0;
}

struct dimensions {
	int n;
	uint32_t length[MAX_DIMENSIONS];
	int32_t lower[MAX_DIMENSIONS];
};

static int read_dimensions(struct cursor *c, struct dimensions *d)
{
	uint32_t n = cursor_u32(c);

	cursor_u32(c); /* whether there are nulls */
	cursor_u32(c); /* the element's type, which we know */
	if (n > MAX_DIMENSIONS)
		return -1;
	d->n = (int)n;
	for (int i = 0; i < d->n; i++) {
		d->length[i] = cursor_u32(c);
		d->lower[i] = (int32_t)cursor_u32(c);
		if (d->length[i] > cursor_left(c))
			return -1;
	}
	return c->bad ? -1 : 0;
}

static int put_dimension(const struct type *elem, const struct dimensions *d, int level,
			 struct cursor *c, struct strbuf *out, int depth)
{
	strbuf_ch(out, '{');
	for (uint32_t i = 0; i < d->length[level]; i++) {
		if (i)
			strbuf_ch(out, elem->delim);
		if (level + 1 < d->n ? put_dimension(elem, d, level + 1, c, out, depth)
				     : put_element(elem, c, out, depth))
			return -1;
	}
	strbuf_ch(out, '}');
	return 0;
}

static int put_array(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	struct dimensions d;
	bool bounds = false;

	if (read_dimensions(c, &d))
		return -1;
	if (d.n == 0) {
		strbuf_lit(out, "{}");
		return 0;
	}
	for (int i = 0; i < d.n; i++)
		bounds |= d.lower[i] != 1;
	for (int i = 0; i < d.n && bounds; i++)
		strbuf_printf(out, "[%d:%lld]", d.lower[i], (long long)d.lower[i] + d.length[i] - 1);
	if (bounds)
		strbuf_ch(out, '=');
	return put_dimension(t->elem, &d, 0, c, out, depth);
}

static int put_vector(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	struct dimensions d;

	if (read_dimensions(c, &d) || d.n > 1)
		return -1;
	for (uint32_t i = 0; d.n && i < d.length[0]; i++) {
		if (i)
			strbuf_ch(out, ' ');
		if (put_sized(t->elem, c, out, depth))
			return -1;
	}
	return 0;
}

static int put_record(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	if (cursor_u32(c) != t->nfields)
		return -1;
	strbuf_ch(out, '(');
	for (uint32_t i = 0; i < t->nfields; i++) {
		size_t at;
		int result;

		if (i)
			strbuf_ch(out, ',');
		at = out->n;
		cursor_u32(c); /* the field's type */
		result = put_sized(t->fields[i].type, c, out, depth);
		if (result < 0)
			return -1;
		if (result == 0)
			quote_from(out, at, "\"\\(), \t\n\r\v\f", '"');
	}
	strbuf_ch(out, ')');
	return 0;
}

static int put_bound(const struct type *t, bool infinite, struct cursor *c, struct strbuf *out,
		     int depth)
{
	size_t at = out->n;

	if (infinite)
		return 0;
	if (put_sized(t->elem, c, out, depth))
		return -1;
	quote_from(out, at, "\"\\()[], \t\n\r\v\f", '"');
	return 0;
}

static int put_range(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	uint8_t flags = cursor_u8(c);

	if (flags & RANGE_EMPTY) {
		strbuf_lit(out, "empty");
		return 0;
	}
	strbuf_ch(out, flags & LOWER_INC ? '[' : '(');
	if (put_bound(t, flags & LOWER_INF, c, out, depth))
		return -1;
	strbuf_ch(out, ',');
	if (put_bound(t, flags & UPPER_INF, c, out, depth))
		return -1;
	strbuf_ch(out, flags & UPPER_INC ? ']' : ')');
	return 0;
}

static int put_multirange(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	uint32_t n = cursor_u32(c);

	strbuf_ch(out, '{');
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			strbuf_ch(out, ',');
		if (put_sized(t->elem, c, out, depth))
			return -1;
	}
	strbuf_ch(out, '}');
	return 0;
}

static int put_scalar(const struct type *t, struct cursor *c, struct strbuf *out, int depth)
{
	binary_fn *put = binary_scalar(t->is_enum ? 25 /* text */ : t->base);

	if (!put)
		return -1;
	put(c, out);
	return 0;
}

/* By kind; those not named are scalars. */
static int (*const builders[])(const struct type *t, struct cursor *c, struct strbuf *out,
			       int depth) = {
	[TYPE_ARRAY] = put_array, [TYPE_VECTOR] = put_vector,         [TYPE_RECORD] = put_record,
	[TYPE_RANGE] = put_range, [TYPE_MULTIRANGE] = put_multirange,
};

static int put_value(const struct type *t, struct str bytes, struct strbuf *out, int depth)
{
	struct cursor c = cursor_over(bytes);
	bool built = t->kind < sizeof(builders) / sizeof(builders[0]) && builders[t->kind];

	if (depth == MAX_DEPTH || (built && t->kind != TYPE_RECORD && !t->elem))
		return -1;
	if ((built ? builders[t->kind] : put_scalar)(t, &c, out, depth + 1))
		return -1;
	return c.bad || cursor_left(&c) ? -1 : 0;
}

int binary_text(const struct type *type, struct str bytes, struct strbuf *out)
{
	return put_value(type, bytes, out, 0);
}
