#include "base/strbuf.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void strbuf_release(struct strbuf *b)
{
	free(b->p);
	*b = (struct strbuf){ 0 };
}

void strbuf_grow(struct strbuf *b, size_t more)
{
	size_t need, cap;

	if (__builtin_add_overflow(b->n, more, &need))
		mem_die();
	cap = b->cap ? b->cap : 64;
	while (cap < need)
		cap = cap < (size_t)1 << 26 ? cap * 2 : cap + cap / 4;
	b->p = mem_realloc(b->p, cap);
	b->cap = cap;
}

void strbuf_shrink(struct strbuf *b, size_t cap)
{
	if (b->n == 0 && b->cap > cap)
		strbuf_release(b);
}

void strbuf_printf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	strbuf_room(b, (size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->n += (size_t)n;
}

const char *strbuf_cstr(struct strbuf *b)
{
	*strbuf_room(b, 1) = '\0';
	return b->p;
}
