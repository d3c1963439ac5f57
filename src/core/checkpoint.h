/*
 * The checkpoint: the only way the slot ever advances. A queue of commits, each with the last
 * sequence number that each output was given up to there; the head leaves when every output has
 * taken its number. The last commit out is what the slot may be told. A keepalive's position goes
 * through the same queue, so it waits for everything before it.
 *
 * Commits that brought no output anything new share one place, so the queue is never longer than
 * the number of messages in flight.
 */
#ifndef PGHERALD_CHECKPOINT_H
#define PGHERALD_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct checkpoint {
	uint64_t confirmed; /* all before it is taken by all; never goes back */
	size_t noutputs;
	uint64_t *ring; /* cap places of 1 + noutputs numbers: LSN, then a number per output */
	size_t cap;     /* a power of two */
	size_t head;
	size_t n;
};

/* For a released or zeroed checkpoint; `confirmed` is kept as it is. */
void checkpoint_init(struct checkpoint *c, size_t noutputs);
void checkpoint_release(struct checkpoint *c);

/* Everything before lsn has been given to the outputs, whose last numbers are given[]. */
void checkpoint_push(struct checkpoint *c, uint64_t lsn, const uint64_t *given);

/* Lets out what is taken[]; returns whether `confirmed` has moved. */
bool checkpoint_advance(struct checkpoint *c, const uint64_t *taken);

/* The LSN that waits first, and the number that an output has to take for it. Not for an empty one. */
uint64_t checkpoint_first(const struct checkpoint *c);
uint64_t checkpoint_number(const struct checkpoint *c, size_t output);

static inline bool checkpoint_empty(const struct checkpoint *c)
{
	return c->n == 0;
}

#endif
