/*
 * An output: a sink with its filter, format and options, and the batch that is being filled for
 * it. Used by the reader's thread.
 */
#ifndef PGHERALD_OUTPUT_H
#define PGHERALD_OUTPUT_H

#include "conf/settings.h"
#include "encode/encode.h"
#include "flow/filter.h"
#include "flow/template.h"
#include "sink/sink.h"

struct output {
	const struct output_settings *settings;
	const struct sink_driver *driver;
	struct sink *sink;
	const struct format *format;
	struct encode_options encode;
	struct filter filter;
	struct template address; /* empty where the driver has none */
	struct address_rule address_rule;
	struct strbuf tags;
	struct compressor *compressor; /* NULL: messages are as they are */
	struct strbuf plain;           /* a message before it is compressed */
	struct batch *batch;           /* being filled, or NULL */
	uint64_t given;                /* sequence number of the last message put into a batch */
	struct event begin;            /* the transaction's begin, until it is shown */
	bool begin_waits;
	bool begin_shown;
	enum sink_condition condition; /* as last logged */
	bool noticed;                  /* the sink's notice is logged */
};

/* Makes ready what the settings say, without starting the sink. CONFIG for what is wrong in them.
 */
int output_init(struct output *o, const struct settings *s, const struct output_settings *os,
		struct arena *arena, struct err *err) MUST_CHECK;
void output_release(struct output *o);

/* What is to become of events that it refuses. */
enum sink_refusal output_refusal(const struct output_settings *os);

/* Starts the sink. `dead` is for dead letters. The source says where the events come from. */
int output_start(struct output *o, const struct source *source, struct sink *dead, int progress,
		 struct err *err) MUST_CHECK;

/* Whether the table has what address and key are made of, for the actions (ACTION_BITs) wanted of
 * it; CONFIG saying what it lacks. */
int output_check_table(const struct output *o, const struct relation *rel, uint16_t actions,
		       struct err *err) MUST_CHECK;

/* Whether one more event can be put in. */
bool output_has_room(struct output *o);

/* Encodes the event into the batch; o->filter has already let it through. */
void output_put(struct output *o, const struct event *e);

/* Hands a batch with messages in it to the sink. */
void output_flush(struct output *o);

#endif
