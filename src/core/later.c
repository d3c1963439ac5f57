#include "core/later.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static void make_room(struct later *l)
{
	if (l->first >= l->cap / 2 && l->first) {
		memmove(l->v, l->v + l->first, (l->n - l->first) * sizeof(*l->v));
		l->n -= l->first;
		l->first = 0;
	} else {
		l->cap = l->cap ? l->cap * 2 : 64;
		l->v = mem_realloc(l->v, l->cap * sizeof(*l->v));
	}
}

void later_put(struct later *l, struct position p)
{
	if (l->n == l->cap)
		make_room(l);
	l->v[l->n++] = p;
}

size_t later_take(struct later *l, struct position p)
{
	size_t before = l->first;

	while (l->first < l->n && position_cmp(l->v[l->first], p) <= 0)
		l->first++;
	return l->first - before;
}

void later_clear(struct later *l)
{
	l->first = l->n = 0;
}

void later_release(struct later *l)
{
	free(l->v);
	*l = (struct later){ 0 };
}
