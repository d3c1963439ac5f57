#include "decode/binary_scalar.h"

#include "base/time.h"

#include <arpa/inet.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define DAYS_2000 10957 /* from 1970-01-01 to 2000-01-01 */

/* ---- numbers ---- */

static void put_bool(struct cursor *c, struct strbuf *out)
{
	strbuf_ch(out, cursor_u8(c) ? 't' : 'f');
}

static void put_int2(struct cursor *c, struct strbuf *out)
{
	strbuf_printf(out, "%d", (int16_t)cursor_u16(c));
}

static void put_int4(struct cursor *c, struct strbuf *out)
{
	strbuf_printf(out, "%d", (int32_t)cursor_u32(c));
}

static void put_int8(struct cursor *c, struct strbuf *out)
{
	strbuf_printf(out, "%lld", (long long)cursor_u64(c));
}

static void put_oid(struct cursor *c, struct strbuf *out)
{
	strbuf_printf(out, "%u", cursor_u32(c));
}

static void put_xid8(struct cursor *c, struct strbuf *out)
{
	strbuf_printf(out, "%llu", (unsigned long long)cursor_u64(c));
}

static void put_lsn(struct cursor *c, struct strbuf *out)
{
	uint64_t lsn = cursor_u64(c);

	strbuf_printf(out, "%X/%X", (uint32_t)(lsn >> 32), (uint32_t)lsn);
}

static void put_tid(struct cursor *c, struct strbuf *out)
{
	uint32_t block = cursor_u32(c);

	strbuf_printf(out, "(%u,%u)", block, cursor_u16(c));
}

/* Digits d (n of them, first not 0 unless alone) with the point behind the first at 10^exp. */
static void put_digits(struct strbuf *out, const char *d, int n, int exp, int fixed_below)
{
	if (exp < -4 || exp >= fixed_below) {
		strbuf_ch(out, d[0]);
		if (n > 1) {
			strbuf_ch(out, '.');
			strbuf_add(out, d + 1, (size_t)n - 1);
		}
		strbuf_printf(out, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
		return;
	}
	if (exp < 0)
		strbuf_add(out, "0.000", (size_t)(1 - exp));
	for (int i = 0; i < n || i <= exp; i++) {
		if (exp >= 0 && i == exp + 1)
			strbuf_ch(out, '.');
		strbuf_ch(out, i < n ? d[i] : '0');
	}
}

/* The fewest digits, between least and most, that read back as v. */
static void put_float(struct strbuf *out, double v, bool single)
{
	int most = single ? 9 : 17, least = single ? FLT_DIG : DBL_DIG;
	char text[40], digits[20] = "0";
	int n = 0, exp;

	if (isnan(v) || isinf(v)) {
		strbuf_str(out, isnan(v) ? STR("NaN") : v < 0 ? STR("-Infinity") : STR("Infinity"));
		return;
	}
	if (signbit(v))
		strbuf_ch(out, '-');
	v = fabs(v);
	if (v < (single ? (double)FLT_MIN : DBL_MIN)) /* a denormal may need fewer */
		least = 1;
	for (int precision = least; precision <= most; precision++) {
		snprintf(text, sizeof(text), "%.*e", precision - 1, v);
		if (single ? strtof(text, NULL) == (float)v : strtod(text, NULL) == v)
			break;
	}
	exp = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
	for (const char *p = text; *p != 'e'; p++)
		if (*p >= '0' && *p <= '9')
			digits[n++] = *p;
	while (n > 1 && digits[n - 1] == '0')
		n--;
	put_digits(out, digits, n, exp, single ? 6 : 15);
}

void binary_float8(struct strbuf *out, double v)
{
	put_float(out, v, false);
}

static void put_float4(struct cursor *c, struct strbuf *out)
{
	uint32_t bits = cursor_u32(c);
	float v;

	memcpy(&v, &bits, sizeof(v));
	put_float(out, (double)v, true);
}

static double take_float8(struct cursor *c)
{
	uint64_t bits = cursor_u64(c);
	double v;

	memcpy(&v, &bits, sizeof(v));
	return v;
}

static void put_float8(struct cursor *c, struct strbuf *out)
{
	put_float(out, take_float8(c), false);
}

/* The i-th digit of base 10000; those that were not sent are 0. */
static int base_10000(struct str digits, int i)
{
	struct cursor c;

	if (i < 0 || (size_t)i >= digits.n / 2)
		return 0;
	c = cursor_over(str_from(digits, (size_t)i * 2));
	return cursor_u16(&c) % 10000;
}

/* ndigits2 weight2 sign2 dscale2 { digit2 }: digits of base 10000, the first at 10000^weight. */
static void put_numeric(struct cursor *c, struct strbuf *out)
{
	size_t ndigits = cursor_u16(c);
	int weight = (int16_t)cursor_u16(c);
	uint16_t sign = cursor_u16(c);
	int dscale = cursor_u16(c) & 0x3fff;
	struct str digits = cursor_bytes(c, ndigits * 2);

	if ((sign & 0xc000) == 0xc000) {
		strbuf_str(out, sign == 0xf000   ? STR("-Infinity")
				: sign == 0xd000 ? STR("Infinity")
						 : STR("NaN"));
		return;
	}
	if (sign & 0x4000)
		strbuf_ch(out, '-');
	strbuf_printf(out, "%d", weight < 0 ? 0 : base_10000(digits, 0));
	for (int i = 1; i <= weight; i++)
		strbuf_printf(out, "%04d", base_10000(digits, i));
	if (dscale)
		strbuf_ch(out, '.');
	for (int k = 0; k < dscale; k += 4) { /* the last group is cut at dscale */
		char text[16];

		snprintf(text, sizeof(text), "%04d", base_10000(digits, weight + 1 + k / 4));
		strbuf_add(out, text, (size_t)(dscale - k < 4 ? dscale - k : 4));
	}
}

/* ---- text and bytes ---- */

static void put_rest(struct cursor *c, struct strbuf *out)
{
	strbuf_str(out, cursor_bytes(c, cursor_left(c)));
}

/* jsonb and jsonpath: a version, then text. */
static void put_versioned(struct cursor *c, struct strbuf *out)
{
	if (cursor_u8(c) != 1)
		c->bad = true;
	put_rest(c, out);
}

static void put_hex(struct cursor *c, size_t n, struct strbuf *out)
{
	for (size_t i = 0; i < n; i++)
		strbuf_printf(out, "%02x", cursor_u8(c));
}

static void put_bytea(struct cursor *c, struct strbuf *out)
{
	static const char hex[] = "0123456789abcdef";
	struct str bytes = cursor_bytes(c, cursor_left(c));

	strbuf_lit(out, "\\x");
	for (size_t i = 0; i < bytes.n; i++) {
		strbuf_ch(out, hex[(unsigned char)bytes.p[i] >> 4]);
		strbuf_ch(out, hex[bytes.p[i] & 15]);
	}
}

/* "char": a byte; NUL is the empty string. Others print bytes over 0x7f in ways that differ by
 * version. */
static void put_char(struct cursor *c, struct strbuf *out)
{
	uint8_t v = cursor_u8(c);

	if (v > 0x7f)
		c->bad = true;
	else if (v)
		strbuf_ch(out, (char)v);
}

static void put_uuid(struct cursor *c, struct strbuf *out)
{
	static const uint8_t groups[] = { 4, 2, 2, 2, 6 };

	for (size_t i = 0; i < sizeof(groups); i++) {
		if (i)
			strbuf_ch(out, '-');
		put_hex(c, groups[i], out);
	}
}

static void put_bits(struct cursor *c, struct strbuf *out)
{
	uint32_t n = cursor_u32(c);

	if (cursor_left(c) != ((size_t)n + 7) / 8) {
		c->bad = true;
		return;
	}
	for (uint32_t i = 0, byte = 0; i < n; i++) {
		if (i % 8 == 0)
			byte = cursor_u8(c);
		strbuf_ch(out, byte >> (7 - i % 8) & 1 ? '1' : '0');
	}
}

static void put_macaddr(struct cursor *c, struct strbuf *out)
{
	for (size_t n = cursor_left(c), i = 0; i < n; i++)
		strbuf_printf(out, i ? ":%02x" : "%02x", cursor_u8(c));
}

/* family1 bits1 is_cidr1 length1 address; the family is 2 for IPv4, 3 for IPv6. */
static void put_inet(struct cursor *c, struct strbuf *out)
{
	uint8_t family = cursor_u8(c), bits = cursor_u8(c), is_cidr = cursor_u8(c), n = cursor_u8(c);
	struct str address = cursor_bytes(c, n);
	char text[INET6_ADDRSTRLEN];

	if (address.n != (family == 2 ? 4 : 16) ||
	    !inet_ntop(family == 2 ? AF_INET : AF_INET6, address.p, text, sizeof(text))) {
		c->bad = true;
		return;
	}
	strbuf_str(out, str_c(text));
	if (is_cidr || bits != address.n * 8)
		strbuf_printf(out, "/%u", bits);
}

/* ---- times ---- */

/* "0044-03-15"; returns whether it was before Christ, which is said at the end. */
static bool put_day(struct strbuf *out, int64_t days_1970)
{
	struct time_date d = time_civil(days_1970);
	bool bc = d.year <= 0;

	strbuf_printf(out, "%04lld-%02d-%02d", (long long)(bc ? 1 - d.year : d.year), d.month, d.day);
	return bc;
}

static void put_date(struct cursor *c, struct strbuf *out)
{
	int32_t days = (int32_t)cursor_u32(c);

	if (days == INT32_MAX || days == INT32_MIN)
		strbuf_str(out, days < 0 ? STR("-infinity") : STR("infinity"));
	else if (put_day(out, (int64_t)days + DAYS_2000))
		strbuf_lit(out, " BC");
}

/* "03:04:05.678", also "24:00:00". */
static void put_clock(struct cursor *c, struct strbuf *out, int64_t us)
{
	if (us < 0 || us > TIME_DAY)
		c->bad = true;
	else
		time_print_clock(out, us, TIME_TRIM);
}

static void put_stamp(struct cursor *c, struct strbuf *out, struct str zone)
{
	int64_t us = (int64_t)cursor_u64(c), days = us / TIME_DAY, rest = us % TIME_DAY;
	bool bc;

	if (us == INT64_MAX || us == INT64_MIN) {
		strbuf_str(out, us < 0 ? STR("-infinity") : STR("infinity"));
		return;
	}
	if (rest < 0) {
		rest += TIME_DAY;
		days--;
	}
	bc = put_day(out, days + DAYS_2000);
	strbuf_ch(out, ' ');
	put_clock(c, out, rest);
	strbuf_str(out, zone);
	if (bc)
		strbuf_lit(out, " BC");
}

static void put_timestamp(struct cursor *c, struct strbuf *out)
{
	put_stamp(c, out, STR(""));
}

static void put_timestamptz(struct cursor *c, struct strbuf *out)
{
	put_stamp(c, out, STR("+00"));
}

static void put_time(struct cursor *c, struct strbuf *out)
{
	put_clock(c, out, (int64_t)cursor_u64(c));
}

static void put_timetz(struct cursor *c, struct strbuf *out)
{
	int west;

	put_time(c, out);
	west = (int32_t)cursor_u32(c);
	if (west < -86400 || west > 86400) {
		c->bad = true;
		return;
	}
	strbuf_printf(out, "%c%02d", west > 0 ? '-' : '+', abs(west) / 3600);
	if (west % 3600)
		strbuf_printf(out, ":%02d", abs(west) / 60 % 60);
	if (west % 60)
		strbuf_printf(out, ":%02d", abs(west) % 60);
}

struct interval_text {
	struct strbuf *out;
	bool zero;   /* nothing has been written */
	bool before; /* the last part was negative, so that a positive one needs its sign */
};

static void put_part(struct interval_text *t, int64_t v, const char *unit)
{
	if (v == 0)
		return;
	strbuf_printf(t->out, "%s%s%lld %s%s", t->zero ? "" : " ", t->before && v > 0 ? "+" : "",
		      (long long)v, unit, v != 1 ? "s" : "");
	t->before = v < 0;
	t->zero = false;
}

static void put_interval(struct cursor *c, struct strbuf *out)
{
	int64_t us = (int64_t)cursor_u64(c);
	int32_t days = (int32_t)cursor_u32(c), months = (int32_t)cursor_u32(c);
	struct interval_text t = { out, true, false };
	uint64_t part = us < 0 ? 0 - (uint64_t)us : (uint64_t)us;
	struct strbuf clock = { 0 };

	if (days == months && (days == INT32_MAX || days == INT32_MIN) &&
	    us == (days < 0 ? INT64_MIN : INT64_MAX)) { /* 17 and later */
		strbuf_str(out, days < 0 ? STR("-infinity") : STR("infinity"));
		return;
	}
	put_part(&t, months / 12, "year");
	put_part(&t, months % 12, "mon");
	put_part(&t, days, "day");
	if (!t.zero && us == 0)
		return;
	/* hours are not bounded by a day */
	time_print_clock(&clock, (int64_t)(part % (3600 * TIME_SECOND)), TIME_TRIM);
	strbuf_printf(out, "%s%s%02llu:%.*s", t.zero ? "" : " ",
		      us < 0     ? "-"
		      : t.before ? "+"
				 : "",
		      (unsigned long long)(part / (3600 * TIME_SECOND)), (int)clock.n - 3,
		      clock.p + 3);
	strbuf_release(&clock);
}

/* ---- geometry ---- */

static void put_pair(struct cursor *c, struct strbuf *out)
{
	strbuf_ch(out, '(');
	put_float8(c, out);
	strbuf_ch(out, ',');
	put_float8(c, out);
	strbuf_ch(out, ')');
}

static void put_points(struct cursor *c, struct strbuf *out, uint32_t n)
{
	if (cursor_left(c) != (size_t)n * 16) {
		c->bad = true;
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			strbuf_ch(out, ',');
		put_pair(c, out);
	}
}

static void put_box(struct cursor *c, struct strbuf *out)
{
	put_points(c, out, 2);
}

static void put_lseg(struct cursor *c, struct strbuf *out)
{
	strbuf_ch(out, '[');
	put_points(c, out, 2);
	strbuf_ch(out, ']');
}

static void put_line(struct cursor *c, struct strbuf *out)
{
	for (int i = 0; i < 3; i++) {
		strbuf_ch(out, i ? ',' : '{');
		put_float8(c, out);
	}
	strbuf_ch(out, '}');
}

static void put_path(struct cursor *c, struct strbuf *out)
{
	bool closed = cursor_u8(c);

	strbuf_ch(out, closed ? '(' : '[');
	put_points(c, out, cursor_u32(c));
	strbuf_ch(out, closed ? ')' : ']');
}

static void put_polygon(struct cursor *c, struct strbuf *out)
{
	strbuf_ch(out, '(');
	put_points(c, out, cursor_u32(c));
	strbuf_ch(out, ')');
}

static void put_circle(struct cursor *c, struct strbuf *out)
{
	strbuf_ch(out, '<');
	put_pair(c, out);
	strbuf_ch(out, ',');
	put_float8(c, out);
	strbuf_ch(out, '>');
}

static const struct {
	uint32_t oid;
	binary_fn *put;
} scalars[] = {
	{ 16, put_bool },       { 17, put_bytea },       { 18, put_char },
	{ 19, put_rest },       { 20, put_int8 },        { 21, put_int2 },
	{ 23, put_int4 },       { 25, put_rest },        { 26, put_oid },
	{ 27, put_tid },        { 28, put_oid },         { 29, put_oid },
	{ 114, put_rest },      { 142, put_rest },       { 600, put_pair },
	{ 601, put_lseg },      { 602, put_path },       { 603, put_box },
	{ 604, put_polygon },   { 628, put_line },       { 700, put_float4 },
	{ 650, put_inet },      { 869, put_inet },       { 701, put_float8 },
	{ 718, put_circle },    { 774, put_macaddr },    { 829, put_macaddr },
	{ 1042, put_rest },     { 1043, put_rest },      { 1082, put_date },
	{ 1083, put_time },     { 1114, put_timestamp }, { 1184, put_timestamptz },
	{ 1186, put_interval }, { 1266, put_timetz },    { 1560, put_bits },
	{ 1562, put_bits },     { 1700, put_numeric },   { 2950, put_uuid },
	{ 3220, put_lsn },      { 3802, put_versioned }, { 4072, put_versioned },
	{ 5069, put_xid8 },
};

binary_fn *binary_scalar(uint32_t oid)
{
	for (size_t i = 0; i < sizeof(scalars) / sizeof(scalars[0]); i++)
		if (scalars[i].oid == oid)
			return scalars[i].put;
	return NULL;
}
