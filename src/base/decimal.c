#include "base/decimal.h"

#include "base/base64.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* An unsigned number of any size, least significant limb first. */
struct big {
	uint32_t *limbs;
	size_t n;
};

static locale_t c_locale;

static void __attribute__((constructor)) decimal_init(void)
{
	c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static void big_multiply_add(struct big *big, uint32_t factor, uint32_t summand)
{
	uint64_t carry = summand;

	for (size_t i = 0; i < big->n; i++) {
		carry += (uint64_t)big->limbs[i] * factor;
		big->limbs[i] = (uint32_t)carry;
		carry >>= 32;
	}
	if (carry)
		big->limbs[big->n++] = (uint32_t)carry;
}

/* Nine digits at a time; everything but digits is skipped. */
static void big_read(struct big *big, struct str text)
{
	uint32_t chunk = 0, factor = 1;

	for (size_t i = 0; i < text.n; i++) {
		if (text.p[i] < '0' || text.p[i] > '9')
			continue;
		chunk = chunk * 10 + (uint32_t)(text.p[i] - '0');
		factor *= 10;
		if (factor == 1000000000) {
			big_multiply_add(big, factor, chunk);
			chunk = 0;
			factor = 1;
		}
	}
	big_multiply_add(big, factor, chunk);
}

/* Two's complement; the caller gives a limb more than the number needs. */
static void big_negate(struct big *big)
{
	uint64_t carry = 1;

	big->limbs[big->n++] = 0;
	for (size_t i = 0; i < big->n; i++) {
		carry += (uint32_t)~big->limbs[i];
		big->limbs[i] = (uint32_t)carry;
		carry >>= 32;
	}
}

/* Big-endian and without leading bytes that say no more than the sign. */
static struct str big_bytes(const struct big *big, bool negative, char *bytes)
{
	char sign = negative ? '\xff' : '\0';
	struct str s = { bytes, 4 * big->n + 1 };

	bytes[0] = sign;
	for (size_t i = 0; i < 4 * big->n; i++)
		bytes[4 * big->n - i] = (char)(big->limbs[i / 4] >> 8 * (i % 4));
	while (s.n > 1 && s.p[0] == sign && (s.p[1] & 0x80) == (sign & 0x80))
		s = str_from(s, 1);
	return s;
}

bool decimal_scale(struct str text, uint32_t *scale)
{
	size_t i = text.n && text.p[0] == '-', digits = 0;
	const char *point = NULL;

	for (; i < text.n; i++) {
		if (text.p[i] >= '0' && text.p[i] <= '9')
			digits++;
		else if (text.p[i] == '.' && !point)
			point = text.p + i;
		else
			return false;
	}
	*scale = point ? (uint32_t)(text.p + text.n - point - 1) : 0;
	return digits > 0;
}

bool decimal_base64(struct strbuf *out, struct str text)
{
	size_t limbs = text.n / 9 + 2, bytes = 4 * limbs + 1, base64 = (bytes + 2) / 3 * 4;
	bool negative = text.n && text.p[0] == '-';
	struct big big = { 0 };
	uintptr_t behind;
	uint32_t scale;

	if (!decimal_scale(text, &scale))
		return false;
	/* The number and its bytes stand behind the place of the base64 text meanwhile. */
	strbuf_room(out, base64 + bytes + 4 * limbs + sizeof(uint32_t));
	behind = (uintptr_t)(out->p + out->n + base64 + bytes);
	big.limbs = (uint32_t *)((behind + 3) & ~(uintptr_t)3);
	big_read(&big, text);
	negative = negative && big.n;
	if (negative)
		big_negate(&big);
	base64_encode(out, big_bytes(&big, negative, out->p + out->n + base64));
	return true;
}

bool decimal_double(struct strbuf *room, struct str text, double *v)
{
	char *copy = strbuf_room(room, text.n + 1), *end;

	if (text.n == 0)
		return false;
	memcpy(copy, text.p, text.n);
	copy[text.n] = '\0';
	*v = strtod_l(copy, &end, c_locale);
	return end == copy + text.n;
}

static void print_finite(struct strbuf *out, double v)
{
	char text[32];
	int n = 0;

	for (int digits = 15; digits <= 17; digits++) {
		n = snprintf(text, sizeof(text), "%.*g", digits, v);
		if (strtod(text, NULL) == v)
			break;
	}
	strbuf_add(out, text, (size_t)n);
	if (!strpbrk(text, ".e"))
		strbuf_lit(out, ".0");
}

void decimal_print(struct strbuf *out, double v)
{
	locale_t before;

	if (isnan(v)) {
		strbuf_lit(out, "\"NaN\"");
	} else if (isinf(v)) {
		strbuf_str(out, v > 0 ? STR("\"Infinity\"") : STR("\"-Infinity\""));
	} else {
		before = uselocale(c_locale);
		print_finite(out, v);
		uselocale(before);
	}
}
