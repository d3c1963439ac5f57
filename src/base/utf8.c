#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

static bool continues(const char *p, const char *end, size_t n)
{
	if ((size_t)(end - p) <= n)
		return false;
	for (size_t i = 1; i <= n; i++)
		if (((unsigned char)p[i] & 0xc0) != 0x80)
			return false;
	return true;
}

size_t utf8_len(const char *p, const char *end)
{
	unsigned char a = (unsigned char)p[0];
	unsigned char b = end - p > 1 ? (unsigned char)p[1] : 0;

	if (a < 0x80)
		return 1;
	if (a >= 0xc2 && a <= 0xdf)
		return continues(p, end, 1) ? 2 : 0;
	if (a >= 0xe0 && a <= 0xef) {
		bool bad = (a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f);

		return !bad && continues(p, end, 2) ? 3 : 0;
	}
	if (a >= 0xf0 && a <= 0xf4) {
		bool bad = (a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f);

		return !bad && continues(p, end, 3) ? 4 : 0;
	}
	return 0;
}

bool utf8_valid(struct str s)
{
	const char *p = s.p, *end = s.p + s.n;

	while (p < end) {
		uint64_t eight;
		size_t n;

		if (end - p >= 8 && !(memcpy(&eight, p, 8), eight & 0x8080808080808080)) {
			p += 8; /* all of them ASCII */
			continue;
		}
		n = utf8_len(p, end);
		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

void utf8_replace(struct strbuf *out, struct str s)
{
	const char *p = s.p, *end = s.p + s.n;

	while (p < end) {
		size_t n = utf8_len(p, end);

		if (n)
			strbuf_add(out, p, n);
		else
			strbuf_lit(out, "\xef\xbf\xbd");
		p += n ? n : 1;
	}
}
