#include "decode/literal.h"

/* PostgreSQL's limit is 6. */
#define MAX_DEPTH 6

void literal_array_init(struct literal_array *a, struct str text, char delim)
{
	*a = (struct literal_array){
		.p = text.p, .end = text.p + text.n, .delim = delim, .value_due = true
	};
	if (text.n && *a->p == '[') { /* bounds say nothing that JSON could */
		const char *eq = memchr(text.p, '=', text.n);

		a->p = eq ? eq + 1 : a->end;
	}
}

void literal_unquote(struct str quoted, struct strbuf *out)
{
	const char *p = quoted.p, *end = quoted.p + quoted.n;

	while (p < end) {
		const char *slash = memchr(p, '\\', (size_t)(end - p));

		if (!slash || slash + 1 == end) {
			strbuf_add(out, p, (size_t)(end - p));
			return;
		}
		strbuf_add(out, p, (size_t)(slash - p));
		strbuf_ch(out, slash[1]);
		p = slash + 2;
	}
}

static enum literal_token array_quoted(struct literal_array *a, struct str *value)
{
	const char *from = ++a->p;

	while (a->p < a->end && *a->p != '"')
		a->p += *a->p == '\\' && a->end - a->p > 1 ? 2 : 1;
	if (a->p >= a->end) {
		a->p = a->end;
		return LITERAL_BAD;
	}
	*value = (struct str){ from, (size_t)(a->p++ - from) };
	return LITERAL_QUOTED;
}

static enum literal_token array_bare(struct literal_array *a, struct str *value)
{
	const char *from = a->p;

	while (a->p < a->end && *a->p != a->delim && *a->p != '}' && *a->p != '{')
		a->p++;
	*value = (struct str){ from, (size_t)(a->p - from) };
	if (value->n == 0)
		return LITERAL_BAD;
	return str_eq(*value, STR("NULL")) ? LITERAL_NULL : LITERAL_VALUE;
}

static enum literal_token array_begin(struct literal_array *a, struct str *value)
{
	enum literal_token token;

	if (*a->p == '{') {
		a->p++;
		if (++a->depth > MAX_DEPTH)
			return LITERAL_BAD;
		a->first = true;
		return LITERAL_OPEN;
	}
	if (*a->p == '}' && a->first && a->depth > 0) {
		a->p++;
		a->depth--;
		a->value_due = a->first = false;
		return LITERAL_CLOSE;
	}
	if (a->depth == 0)
		return LITERAL_BAD;
	token = *a->p == '"' ? array_quoted(a, value) : array_bare(a, value);
	a->value_due = a->first = false;
	return token;
}

enum literal_token literal_array_next(struct literal_array *a, struct str *value)
{
	a->comma = false;
	if (a->p == a->end)
		return a->depth == 0 && !a->value_due ? LITERAL_END : LITERAL_BAD;
	if (a->value_due)
		return array_begin(a, value);
	if (a->depth == 0)
		return LITERAL_BAD;
	if (*a->p == a->delim) {
		a->p++;
		a->comma = a->value_due = true;
		return a->p == a->end ? LITERAL_BAD : array_begin(a, value);
	}
	if (*a->p != '}')
		return LITERAL_BAD;
	a->p++;
	a->depth--;
	return LITERAL_CLOSE;
}

void literal_record_init(struct literal_record *r, struct str text)
{
	*r = (struct literal_record){ text.p, text.p + text.n, false };
}

/* Reads what stands in quotes at p (behind the opening one) up to the closing one, with \x for x
 * and "" for a quote. Returns behind the closing quote, or NULL. */
static const char *quoted(const char *p, const char *end, struct strbuf *scratch)
{
	for (; p < end; p++) {
		if (*p == '"') {
			if (p + 1 == end || p[1] != '"')
				return p + 1;
			p++;
		} else if (*p == '\\' && ++p == end) {
			return NULL;
		}
		strbuf_ch(scratch, *p);
	}
	return NULL;
}

/* A field: any mix of quoted and bare text up to a comma or the closing parenthesis. */
static enum literal_token record_field(struct literal_record *r, struct strbuf *scratch,
				       struct str *value)
{
	size_t at = scratch->n;

	if (r->p < r->end && (*r->p == ',' || *r->p == ')'))
		return LITERAL_NULL;
	while (r->p < r->end && *r->p != ',' && *r->p != ')') {
		if (*r->p == '"') {
			r->p = quoted(r->p + 1, r->end, scratch);
			if (!r->p)
				return LITERAL_BAD;
		} else {
			r->p += *r->p == '\\' && r->p + 1 < r->end;
			strbuf_ch(scratch, *r->p++);
		}
	}
	*value = strbuf_since(scratch, at);
	return r->p < r->end ? LITERAL_VALUE : LITERAL_BAD;
}

enum literal_token literal_record_next(struct literal_record *r, struct strbuf *scratch,
				       struct str *value)
{
	if (!r->p || r->end - r->p < 1)
		return LITERAL_BAD;
	if (r->begun && *r->p == ')')
		return r->p + 1 == r->end ? LITERAL_END : LITERAL_BAD;
	if (*r->p != (r->begun ? ',' : '('))
		return LITERAL_BAD;
	r->begun = true;
	r->p++;
	return record_field(r, scratch, value);
}

void literal_hstore_init(struct literal_hstore *h, struct str text)
{
	*h = (struct literal_hstore){ text.p, text.p + text.n, false };
}

static bool hstore_word(struct literal_hstore *h, struct strbuf *scratch, size_t *n)
{
	size_t at = scratch->n;

	if (h->p == h->end || *h->p != '"')
		return false;
	h->p = quoted(h->p + 1, h->end, scratch);
	*n = scratch->n - at;
	return h->p != NULL;
}

static bool hstore_skip(struct literal_hstore *h, struct str s)
{
	if (!str_starts((struct str){ h->p, (size_t)(h->end - h->p) }, s))
		return false;
	h->p += s.n;
	return true;
}

enum literal_token literal_hstore_next(struct literal_hstore *h, struct strbuf *scratch,
				       struct str *key, struct str *value)
{
	size_t at = scratch->n, nkey, nvalue;

	if (!h->p)
		return LITERAL_BAD;
	if (h->p == h->end)
		return LITERAL_END;
	if (h->begun && !hstore_skip(h, STR(", ")))
		return LITERAL_BAD;
	h->begun = true;
	if (!hstore_word(h, scratch, &nkey) || !hstore_skip(h, STR("=>")))
		return LITERAL_BAD;
	if (hstore_skip(h, STR("NULL"))) {
		*key = strbuf_since(scratch, at);
		return LITERAL_NULL;
	}
	if (!hstore_word(h, scratch, &nvalue))
		return LITERAL_BAD;
	*key = strbuf_since(scratch, at);
	key->n = nkey;
	*value = strbuf_since(scratch, at + nkey);
	return LITERAL_VALUE;
}
