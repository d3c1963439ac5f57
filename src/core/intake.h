/*
 * What is done with each event: from the decoder, past what was handed on before, to the outputs and
 * the callback that want it; and at each commit into the checkpoint. Used by the reader's thread.
 */
#ifndef PGHERALD_INTAKE_H
#define PGHERALD_INTAKE_H

#include "core/capture.h"
#include "core/checkpoint.h"
#include "core/later.h"
#include "core/session.h"
#include "decode/decoder.h"
#include "decode/store_rows.h"

struct intake {
	/* Set before the first event. */
	struct capture_callback callback;
	const struct source *source;
	struct session *session; /* for what only the catalog knows */
	const _Atomic int *stop; /* ends waits for the catalog */
	int64_t limit;           /* of events; 0: none */
	uint64_t until;          /* LSN; 0: no end */

	struct decoder decoder;
	struct store_rows store_rows;
	struct fanout outputs;
	struct checkpoint checkpoint;
	bool outputs_started;

	/* The callback counts as one more output, the last. */
	uint64_t given[MAX_OUTPUTS + 1];
	uint64_t taken[MAX_OUTPUTS + 1];
	struct later later;

	struct position last; /* the last event handed on; after a reconnect all up to it are skipped */
	uint64_t delivered; /* its LSN, also when outputs have begun anew since */
	int64_t events;
	bool done; /* limit or until is reached, or the callback said stop */
};

/* For a zeroed intake: its decoder calls back from here on. The source is borrowed. */
void intake_init(struct intake *in, const struct source *source);

/* Behind fanout_close. */
void intake_release(struct intake *in);

/* progress is an eventfd. */
int intake_start_outputs(struct intake *in, const struct settings *s, int progress,
			 struct err *err) MUST_CHECK;

/* Ends them. What they were given and had not taken comes again from the slot. */
void intake_stop_outputs(struct intake *in);

/* Asks the outputs, which are others now, which of the known tables they want. */
int intake_replan(struct intake *in, struct err *err) MUST_CHECK;

/* All events up to here that were answered CAPTURE_LATER are taken. */
void intake_acknowledge(struct intake *in, struct position p);

/* Whether everybody has taken what they were given. */
bool intake_all_taken(struct intake *in);

#endif
