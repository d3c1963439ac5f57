/*
 * struct strbuf: owned bytes that grow. p[0..n) is the content; it is not terminated unless
 * strbuf_cstr was called last. A zeroed struct is an empty buffer. Memory that runs out ends the
 * process (the slot makes a crash safe), so appending never fails.
 */
#ifndef PGHERALD_STRBUF_H
#define PGHERALD_STRBUF_H

#include "base/str.h"

struct strbuf {
	char *p;
	size_t n;
	size_t cap;
};

void strbuf_release(struct strbuf *b);

/* Slow path of strbuf_room: makes cap >= n + more. */
void strbuf_grow(struct strbuf *b, size_t more);

/* Frees the memory of an empty buffer that has grown over cap bytes (one huge row). */
void strbuf_shrink(struct strbuf *b, size_t cap);

void strbuf_printf(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Terminates the content (the NUL is not counted in n) and returns it. */
const char *strbuf_cstr(struct strbuf *b);

/* Room for `more` bytes at the end; the caller writes there and adds to n itself. */
static inline char *strbuf_room(struct strbuf *b, size_t more)
{
	if (__builtin_expect(b->cap - b->n < more, 0))
		strbuf_grow(b, more);
	return b->p + b->n;
}

static inline void strbuf_add(struct strbuf *b, const void *p, size_t n)
{
	if (n)
		memcpy(strbuf_room(b, n), p, n);
	b->n += n;
}

static inline void strbuf_str(struct strbuf *b, struct str s)
{
	strbuf_add(b, s.p, s.n);
}

static inline void strbuf_ch(struct strbuf *b, char c)
{
	*strbuf_room(b, 1) = c;
	b->n++;
}

/* Appends a string literal. */
#define strbuf_lit(b, literal) strbuf_add(b, "" literal, sizeof(literal) - 1)

static inline struct str strbuf_view(const struct strbuf *b)
{
	return (struct str){ b->p, b->n };
}

/* The content from `at` on. */
static inline struct str strbuf_since(const struct strbuf *b, size_t at)
{
	return b->n > at ? (struct str){ b->p + at, b->n - at } : STR("");
}

#endif
