/* Exponential backoff with jitter: each delay is drawn from the upper half of a bound that doubles
 * from first_ms up to most_ms. */
#ifndef PGHERALD_BACKOFF_H
#define PGHERALD_BACKOFF_H

#include <stdint.h>
#include <stdlib.h>

struct backoff {
	uint32_t first_ms, most_ms;
	uint32_t bound_ms; /* of the last delay; 0: there was none since the last success */
};

/* The next delay in milliseconds. */
static inline int backoff_next(struct backoff *b)
{
	uint32_t half;

	b->bound_ms = b->bound_ms == 0 ? b->first_ms : b->bound_ms * 2;
	if (b->bound_ms > b->most_ms)
		b->bound_ms = b->most_ms;
	half = b->bound_ms / 2;
	return (int)(half + arc4random_uniform(half + 1));
}

static inline void backoff_reset(struct backoff *b)
{
	b->bound_ms = 0;
}

#endif
