#include "core/nap.h"

#define LEAST_US 200
#define LATE_NAPS 16 /* a nap is at most this part of what the stream is late */

static int64_t min(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

int64_t nap_next(struct nap *n, int64_t most)
{
	int64_t us = n->kept_on ? n->length + n->length / 4 : n->length - n->length / 8;

	us = min(us, min(most, n->late / LATE_NAPS));
	if (us < LEAST_US)
		us = LEAST_US;
	n->length = us;
	n->from = n->sent + us - us / 4;
	n->to = n->sent + us;
	n->kept_on = false;
	return us;
}
