#include "core/checkpoint.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void checkpoint_init(struct checkpoint *c, size_t noutputs)
{
	*c = (struct checkpoint){ .noutputs = noutputs, .confirmed = c->confirmed };
}

void checkpoint_release(struct checkpoint *c)
{
	free(c->ring);
	*c = (struct checkpoint){ .confirmed = c->confirmed };
}

static uint64_t *place(const struct checkpoint *c, size_t i)
{
	return c->ring + ((c->head + i) & (c->cap - 1)) * (1 + c->noutputs);
}

static void grow(struct checkpoint *c)
{
	size_t width = 1 + c->noutputs, cap = c->cap ? c->cap * 2 : 64;
	uint64_t *ring = mem_array(cap, width * sizeof(*ring));

	for (size_t i = 0; i < c->n; i++)
		memcpy(ring + i * width, place(c, i), width * sizeof(*ring));
	free(c->ring);
	c->ring = ring;
	c->cap = cap;
	c->head = 0;
}

void checkpoint_push(struct checkpoint *c, uint64_t lsn, const uint64_t *given)
{
	uint64_t *last = c->n ? place(c, c->n - 1) : NULL;
	size_t bytes = c->noutputs * sizeof(*given);

	if (!last || memcmp(last + 1, given, bytes) != 0) {
		if (c->n == c->cap)
			grow(c);
		last = place(c, c->n++);
		memcpy(last + 1, given, bytes);
		last[0] = 0;
	}
	if (last[0] < lsn)
		last[0] = lsn;
}

static bool is_taken(const struct checkpoint *c, const uint64_t *entry, const uint64_t *taken)
{
	for (size_t i = 0; i < c->noutputs; i++)
		if (taken[i] < entry[1 + i])
			return false;
	return true;
}

bool checkpoint_advance(struct checkpoint *c, const uint64_t *taken)
{
	uint64_t before = c->confirmed;

	while (c->n && is_taken(c, place(c, 0), taken)) {
		if (place(c, 0)[0] > c->confirmed)
			c->confirmed = place(c, 0)[0];
		c->head = (c->head + 1) & (c->cap - 1);
		c->n--;
	}
	return c->confirmed != before;
}

uint64_t checkpoint_first(const struct checkpoint *c)
{
	return place(c, 0)[0];
}

uint64_t checkpoint_number(const struct checkpoint *c, size_t output)
{
	return place(c, 0)[1 + output];
}
