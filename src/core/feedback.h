/*
 * What the server is told, and when: how far the slot may go, and that we are alive; and whether
 * the server still is.
 */
#ifndef PGHERALD_FEEDBACK_H
#define PGHERALD_FEEDBACK_H

#include "core/checkpoint.h"
#include "core/session.h"

struct feedback {
	const struct checkpoint *checkpoint;
	struct fanout *outputs;
	const struct session *session;
	const struct source *source;
	bool seeking;     /* an end is to be reached: the server shall say where it is */
	uint64_t told;    /* the LSN of the last status */
	uint64_t marking; /* the LSN that the outputs were last asked to remember */
	int64_t mark_ms, status_ms, heard_ms;
	bool pinged; /* the server was asked for a sign of life */
};

/* A session has begun. */
void feedback_begin(struct feedback *f);

/* The server has been heard, or was not listened to. */
void feedback_heard(struct feedback *f);

/* Whether the server has been silent for too long after it was asked for a sign of life; *seconds
 * says how long. */
bool feedback_silent(const struct feedback *f, int *seconds);

/* What the slot may be told: taken by all outputs, and remembered by those that can. */
uint64_t feedback_tellable(const struct feedback *f);

/* Asks the outputs to remember what the slot shall be told, when it is time or now. */
void feedback_mark(struct feedback *f, bool now);

/* Tells the slot, when it is time or now. */
int feedback_report(struct feedback *f, bool now, struct err *err) MUST_CHECK;

#endif
