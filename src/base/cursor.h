/*
 * A reader over borrowed bytes in network byte order, with a sticky error: a read past the end
 * sets `bad`, returns zeroes and never touches memory outside, so a decoder checks once at the
 * end of a message.
 */
#ifndef PGHERALD_CURSOR_H
#define PGHERALD_CURSOR_H

#include "base/str.h"

#include <endian.h>

struct cursor {
	const char *p;
	const char *end;
	bool bad;
};

static inline struct cursor cursor_over(struct str s)
{
	const char *p = s.n ? s.p : "";

	return (struct cursor){ p, p + s.n, false };
}

static inline size_t cursor_left(const struct cursor *c)
{
	return (size_t)(c->end - c->p);
}

static inline const char *cursor_take(struct cursor *c, size_t n)
{
	const char *p = c->p;

	if (__builtin_expect(cursor_left(c) < n, 0)) {
		c->bad = true;
		c->p = c->end;
		return NULL;
	}
	c->p += n;
	return p;
}

static inline uint8_t cursor_u8(struct cursor *c)
{
	const char *p = cursor_take(c, 1);

	return p ? (uint8_t)*p : 0;
}

static inline uint16_t cursor_u16(struct cursor *c)
{
	const char *p = cursor_take(c, 2);
	uint16_t v = 0;

	if (p)
		memcpy(&v, p, 2);
	return be16toh(v);
}

static inline uint32_t cursor_u32(struct cursor *c)
{
	const char *p = cursor_take(c, 4);
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, 4);
	return be32toh(v);
}

static inline uint64_t cursor_u64(struct cursor *c)
{
	const char *p = cursor_take(c, 8);
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, 8);
	return be64toh(v);
}

static inline struct str cursor_bytes(struct cursor *c, size_t n)
{
	const char *p = cursor_take(c, n);

	return (struct str){ p, p ? n : 0 };
}

/* A NUL-terminated string; the NUL is consumed and not part of the result. */
static inline struct str cursor_cstr(struct cursor *c)
{
	const char *nul = cursor_left(c) ? memchr(c->p, '\0', cursor_left(c)) : NULL;
	struct str s = { c->p, 0 };

	if (!nul) {
		c->bad = true;
		c->p = c->end;
		return s;
	}
	s.n = (size_t)(nul - c->p);
	c->p = nul + 1;
	return s;
}

#endif
