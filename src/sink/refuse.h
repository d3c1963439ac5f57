/* Messages that a destination refuses for good: the output's policy says what becomes of them. */
#ifndef PGHERALD_REFUSE_H
#define PGHERALD_REFUSE_H

#include "sink/sink.h"

struct refusal {
	struct refusal *next;
	uint64_t seq;
	char *why;
};

/* Settles what sink_refuse has noted; on the sink's thread. Fails with FAIL where the policy is to
 * stop. */
int refuse_settle(struct sink *s, struct err *err) MUST_CHECK;

void refuse_free(struct refusal *r);

#endif
