#include "encode/quote.h"

static size_t quoted_size(char c)
{
	if ((unsigned char)c < 0x20)
		return 6;
	return c == '"' || c == '\\' ? 2 : 1;
}

static void put_quoted(char *to, char c)
{
	switch (quoted_size(c)) {
	case 6:
		to[0] = '\\';
		to[1] = 'u';
		to[2] = '0';
		to[3] = '0';
		to[4] = (char)('0' + (c >> 4));
		to[5] = "0123456789abcdef"[c & 15];
		break;
	case 2:
		to[0] = '\\';
		to[1] = c;
		break;
	default:
		to[0] = c;
	}
}

/* From the end, so that nothing is overwritten before it was read. */
void quote_since(struct strbuf *b, size_t at)
{
	size_t n = 2, to;

	for (size_t i = at; i < b->n; i++)
		n += quoted_size(b->p[i]);
	strbuf_room(b, n);
	to = at + n;
	b->p[--to] = '"';
	for (size_t i = b->n; i-- > at;) {
		char c = b->p[i];

		to -= quoted_size(c);
		put_quoted(b->p + to, c);
	}
	b->p[at] = '"';
	b->n = at + n;
}
