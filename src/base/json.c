#include "base/json.h"

#include "base/utf8.h"

/* What a byte becomes in a string: itself (0), a letter behind a backslash, or 'u' for \u00XX. */
static const char escapes[256] = {
	[0x00] = 'u', [0x01] = 'u', [0x02] = 'u', [0x03] = 'u',  [0x04] = 'u', [0x05] = 'u',
	[0x06] = 'u', [0x07] = 'u', [0x08] = 'b', [0x09] = 't',  [0x0a] = 'n', [0x0b] = 'u',
	[0x0c] = 'f', [0x0d] = 'r', [0x0e] = 'u', [0x0f] = 'u',  [0x10] = 'u', [0x11] = 'u',
	[0x12] = 'u', [0x13] = 'u', [0x14] = 'u', [0x15] = 'u',  [0x16] = 'u', [0x17] = 'u',
	[0x18] = 'u', [0x19] = 'u', [0x1a] = 'u', [0x1b] = 'u',  [0x1c] = 'u', [0x1d] = 'u',
	[0x1e] = 'u', [0x1f] = 'u', ['"'] = '"',  ['\\'] = '\\',
};

typedef unsigned char bytes16 __attribute__((vector_size(16), may_alias));
typedef long long words2 __attribute__((vector_size(16)));

/* Whether 16 bytes hold none that must be escaped. */
static inline bool plain16(const char *p)
{
	bytes16 v;
	words2 hit;

	memcpy(&v, p, sizeof(v));
	hit = (words2)((v < 0x20) | (v == '"') | (v == '\\'));
	return (hit[0] | hit[1]) == 0;
}

static char *put_escape(char *out, unsigned char c)
{
	*out++ = '\\';
	*out++ = escapes[c];
	if (escapes[c] == 'u') {
		*out++ = '0';
		*out++ = '0';
		*out++ = "0123456789abcdef"[c >> 4];
		*out++ = "0123456789abcdef"[c & 15];
	}
	return out;
}

/* Writes s escaped at out, where there is room for 6 bytes per byte of s. */
static char *escape(char *out, struct str s)
{
	const char *p = s.p, *end = s.p + s.n;

	while (end - p >= 16) {
		if (plain16(p)) {
			memcpy(out, p, 16);
			out += 16;
			p += 16;
			continue;
		}
		for (int i = 0; i < 16; i++, p++) {
			if (escapes[(unsigned char)*p])
				out = put_escape(out, (unsigned char)*p);
			else
				*out++ = *p;
		}
	}
	for (; p < end; p++) {
		if (escapes[(unsigned char)*p])
			out = put_escape(out, (unsigned char)*p);
		else
			*out++ = *p;
	}
	return out;
}

/* Long strings are written in pieces, so that the worst case is not reserved for all of them. */
#define PIECE 4096

void json_escape(struct strbuf *b, struct str s)
{
	while (s.n) {
		struct str piece = { s.p, s.n < PIECE ? s.n : PIECE };

		b->n = (size_t)(escape(strbuf_room(b, piece.n * 6), piece) - b->p);
		s = str_from(s, piece.n);
	}
}

void json_string(struct strbuf *b, struct str s)
{
	strbuf_ch(b, '"');
	json_escape(b, s);
	strbuf_ch(b, '"');
}

void json_string_checked(struct strbuf *b, struct str s)
{
	struct strbuf clean = { 0 };

	if (utf8_valid(s)) {
		json_string(b, s);
		return;
	}
	utf8_replace(&clean, s);
	json_string(b, strbuf_view(&clean));
	strbuf_release(&clean);
}

/* The character of a valid sequence of n bytes. */
static uint32_t code_point(const char *p, size_t n)
{
	static const unsigned char lead[] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
	uint32_t c = (unsigned char)p[0] & lead[n];

	for (size_t i = 1; i < n; i++)
		c = c << 6 | ((unsigned char)p[i] & 0x3f);
	return c;
}

static void put_u16(struct strbuf *b, uint32_t c)
{
	static const char hex[] = "0123456789abcdef";
	char *out = strbuf_room(b, 6);

	out[0] = '\\';
	out[1] = 'u';
	for (int i = 0; i < 4; i++)
		out[2 + i] = hex[c >> (12 - 4 * i) & 15];
	b->n += 6;
}

void json_string_ascii(struct strbuf *b, struct str s)
{
	const char *p = s.p, *end = s.p + s.n;

	strbuf_ch(b, '"');
	while (p < end) {
		const char *run = p;
		uint32_t c;
		size_t n;

		while (p < end && (unsigned char)*p < 0x7f)
			p++;
		json_escape(b, (struct str){ run, (size_t)(p - run) });
		if (p == end)
			break;
		n = utf8_len(p, end);
		c = n ? code_point(p, n) : 0xfffd;
		p += n ? n : 1;
		if (c < 0x10000) {
			put_u16(b, c);
		} else {
			put_u16(b, 0xd800 + ((c - 0x10000) >> 10));
			put_u16(b, 0xdc00 + ((c - 0x10000) & 0x3ff));
		}
	}
	strbuf_ch(b, '"');
}

void json_uint(struct strbuf *b, uint64_t v)
{
	char digits[20];
	size_t i = sizeof(digits);

	do {
		digits[--i] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	strbuf_add(b, digits + i, sizeof(digits) - i);
}

/* ---- checking ---- */

/* Deeper nesting is called invalid: PostgreSQL's own parser gives up at about this depth too. */
#define MAX_DEPTH 6000

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

static const char *digits(const char *p, const char *end)
{
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return p;
}

/* Behind the number at p, or NULL. */
static const char *check_number(const char *p, const char *end)
{
	const char *from;

	p += *p == '-';
	from = p;
	p = digits(p, end);
	if (p == from || (*from == '0' && p > from + 1))
		return NULL;
	if (p < end && *p == '.') {
		from = ++p;
		p = digits(p, end);
		if (p == from)
			return NULL;
	}
	if (p < end && (*p | 32) == 'e') {
		p++;
		p += p < end && (*p == '+' || *p == '-');
		from = p;
		p = digits(p, end);
		if (p == from)
			return NULL;
	}
	return p;
}

static bool is_hex(char c)
{
	return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f');
}

/* Behind the string whose opening quote is at p, or NULL. */
static const char *check_string(const char *p, const char *end)
{
	for (p++; p < end; p++) {
		if (*p == '"')
			return p + 1;
		if ((unsigned char)*p < 0x20)
			return NULL;
		if (*p != '\\')
			continue;
		if (++p >= end)
			return NULL;
		if (*p == 'u') {
			for (int i = 0; i < 4; i++)
				if (++p >= end || !is_hex(*p))
					return NULL;
		} else if (!strchr("\"\\/bfnrt", *p) || !*p) {
			return NULL;
		}
	}
	return NULL;
}

static const char *check_scalar(const char *p, const char *end)
{
	static const struct str words[] = { STR("true"), STR("false"), STR("null") };

	if (p >= end)
		return NULL;
	if (*p == '"')
		return check_string(p, end);
	if (*p == '-' || (*p >= '0' && *p <= '9'))
		return check_number(p, end);
	for (size_t i = 0; i < 3; i++)
		if (str_starts((struct str){ p, (size_t)(end - p) }, words[i]))
			return p + words[i].n;
	return NULL;
}

/* Behind `"name" :`, or NULL. */
static const char *check_key(const char *p, const char *end)
{
	p = skip_blanks(p, end);
	if (p >= end || *p != '"')
		return NULL;
	p = check_string(p, end);
	if (!p)
		return NULL;
	p = skip_blanks(p, end);
	return p < end && *p == ':' ? p + 1 : NULL;
}

bool json_valid(struct str s)
{
	const char *p = s.p, *end = s.p + s.n;
	char open[MAX_DEPTH]; /* what closes each level */
	size_t depth = 0;

	for (;;) {
		p = skip_blanks(p, end); /* a value begins */
		if (p < end && (*p == '{' || *p == '[')) {
			char close = *p == '{' ? '}' : ']';

			p = skip_blanks(p + 1, end);
			if (depth == MAX_DEPTH)
				return false;
			if (p < end && *p == close) {
				p++;
			} else {
				open[depth++] = close;
				if (close == '}' && !(p = check_key(p, end)))
					return false;
				continue;
			}
		} else if (!(p = check_scalar(p, end))) {
			return false;
		}
		for (;;) { /* a value has ended */
			p = skip_blanks(p, end);
			if (depth == 0)
				return p == end;
			if (p >= end)
				return false;
			if (*p != open[depth - 1])
				break;
			p++;
			depth--;
		}
		if (*p++ != ',' || (open[depth - 1] == '}' && !(p = check_key(p, end))))
			return false;
	}
}

/* ---- taking apart ---- */

static struct str trim(struct str s)
{
	const char *p = skip_blanks(s.p, s.p + s.n);
	size_t n = (size_t)(s.p + s.n - p);

	while (n && strchr(" \t\r\n", p[n - 1]))
		n--;
	return (struct str){ p, n };
}

struct str json_inside(struct str value)
{
	value = trim(value);
	return trim((struct str){ value.p + 1, value.n - 2 });
}

/* Behind the closing quote of the string that begins at p. */
static const char *skip_string(const char *p, const char *end)
{
	const char *quote = p, *slash;

	for (p++;; p = slash + 2) {
		if (quote < p && !(quote = memchr(p, '"', (size_t)(end - p))))
			return end;
		slash = memchr(p, '\\', (size_t)(quote - p));
		if (!slash)
			return quote + 1;
	}
}

/* Behind the value at p: at the comma, or at the end. */
static const char *skip_value(const char *p, const char *end)
{
	size_t depth = 0;

	while (p < end && (depth || *p != ',')) {
		if (*p == '"') {
			p = skip_string(p, end);
			continue;
		}
		depth += *p == '{' || *p == '[';
		depth -= *p == '}' || *p == ']';
		p++;
	}
	return p;
}

bool json_next(struct str *inside, struct str *key, struct str *value)
{
	const char *p = skip_blanks(inside->p, inside->p + inside->n), *end = inside->p + inside->n;
	const char *from = p, *behind;

	*key = (struct str){ 0 };
	if (p == end)
		return false;
	if (*p == '"') { /* a key, if a colon is behind it */
		p = skip_string(p, end);
		behind = skip_blanks(p, end);
		if (behind < end && *behind == ':') {
			*key = (struct str){ from, (size_t)(p - from) };
			from = behind + 1;
		}
	}
	p = skip_value(from, end);
	*value = trim((struct str){ from, (size_t)(p - from) });
	p += p < end;
	*inside = (struct str){ p, (size_t)(end - p) };
	return true;
}

static uint32_t hex4(const char *p)
{
	uint32_t v = 0;

	for (int i = 0; i < 4; i++)
		v = v << 4 | (uint32_t)(p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
	return v;
}

static void put_utf8(struct strbuf *b, uint32_t c)
{
	if (c < 0x80) {
		strbuf_ch(b, (char)c);
	} else if (c < 0x800) {
		strbuf_ch(b, (char)(0xc0 | c >> 6));
		strbuf_ch(b, (char)(0x80 | (c & 0x3f)));
	} else if (c < 0x10000) {
		strbuf_ch(b, (char)(0xe0 | c >> 12));
		strbuf_ch(b, (char)(0x80 | (c >> 6 & 0x3f)));
		strbuf_ch(b, (char)(0x80 | (c & 0x3f)));
	} else {
		strbuf_ch(b, (char)(0xf0 | c >> 18));
		strbuf_ch(b, (char)(0x80 | (c >> 12 & 0x3f)));
		strbuf_ch(b, (char)(0x80 | (c >> 6 & 0x3f)));
		strbuf_ch(b, (char)(0x80 | (c & 0x3f)));
	}
}

/* The character of \uXXXX, or of two that are a pair, at *p; 0 when it is none. */
static uint32_t take_u(const char **p, const char *end)
{
	uint32_t c = hex4(*p + 2), low;

	*p += 6;
	if (c < 0xd800 || c > 0xdfff)
		return c;
	if (c > 0xdbff || end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
		return 0;
	low = hex4(*p + 2);
	*p += 6;
	return low < 0xdc00 || low > 0xdfff ? 0 : 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
}

bool json_storable(struct str s)
{
	const char *p = s.p, *end = s.p + s.n;

	if (!json_valid(s) || !utf8_valid(s))
		return false;
	while ((p = memchr(p, '\\', (size_t)(end - p))) != NULL) /* only strings have these */
		if (p[1] != 'u')
			p += 2;
		else if (!take_u(&p, end))
			return false;
	return true;
}

bool json_unquote(struct strbuf *b, struct str quoted)
{
	static const char letters[] = "bfnrt", meant[] = "\b\f\n\r\t";
	const char *p = quoted.p + 1, *end = quoted.p + quoted.n - 1, *letter;
	uint32_t c;

	while (p < end) {
		if (*p != '\\') {
			strbuf_ch(b, *p++);
		} else if (p[1] == 'u') {
			c = take_u(&p, end);
			if (!c)
				return false;
			put_utf8(b, c);
		} else {
			letter = strchr(letters, p[1]);
			strbuf_ch(b, letter ? meant[letter - letters] : p[1]);
			p += 2;
		}
	}
	return true;
}

void json_compact(struct strbuf *b, struct str value)
{
	const char *p = value.p, *end = value.p + value.n, *from;

	while ((p = skip_blanks(p, end)) < end) {
		from = p;
		if (*p == '"')
			p = skip_string(p, end);
		else
			while (p < end && !strchr("\" \t\r\n", *p))
				p++;
		strbuf_add(b, from, (size_t)(p - from));
	}
}
