#include "base/base64.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* One to three bytes as four characters. */
static char *put_group(char *out, const uint8_t *in, size_t n)
{
	uint32_t v = (uint32_t)in[0] << 16;

	if (n > 1)
		v |= (uint32_t)in[1] << 8;
	if (n > 2)
		v |= in[2];
	*out++ = digits[v >> 18];
	*out++ = digits[v >> 12 & 63];
	*out++ = n > 1 ? digits[v >> 6 & 63] : '=';
	*out++ = n > 2 ? digits[v & 63] : '=';
	return out;
}

void base64_encode(struct strbuf *b, struct str bytes)
{
	char *out = strbuf_room(b, (bytes.n + 2) / 3 * 4);
	const uint8_t *in = (const uint8_t *)bytes.p;

	b->n += (bytes.n + 2) / 3 * 4;
	for (; bytes.n >= 3; in += 3, bytes.n -= 3)
		out = put_group(out, in, 3);
	if (bytes.n)
		put_group(out, in, bytes.n);
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool base64_encode_hex(struct strbuf *b, struct str hex)
{
	size_t bytes = hex.n / 2;
	char *out = strbuf_room(b, (bytes + 2) / 3 * 4);
	uint8_t group[3];
	size_t n = 0;

	if (hex.n % 2)
		return false;
	for (size_t i = 0; i < hex.n; i += 2) {
		int high = hex_value(hex.p[i]), low = hex_value(hex.p[i + 1]);

		if (high < 0 || low < 0)
			return false;
		group[n++] = (uint8_t)(high << 4 | low);
		if (n == 3) {
			out = put_group(out, group, n);
			n = 0;
		}
	}
	if (n)
		put_group(out, group, n);
	b->n += (bytes + 2) / 3 * 4;
	return true;
}
