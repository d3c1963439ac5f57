/*
 * The parts of a CloudEvent, for transports that carry the attributes outside of the body (binary
 * mode): "ce-" and the name as a header, datacontenttype as the content type, the data as the body.
 */
#ifndef PGHERALD_CLOUDEVENTS_H
#define PGHERALD_CLOUDEVENTS_H

#include "encode/encode.h"

struct cloudevents_attribute {
	const char *name;
	/* Appends the value: UTF-8 as it is, which the transport escapes in its way. Appends
	 * nothing where the event has no such attribute. */
	void (*value)(const struct encode_options *o, const struct event *e, struct strbuf *out);
};

/* Ends with a NULL name. */
extern const struct cloudevents_attribute cloudevents_attributes[];

/* Appends the data, a JSON object without newlines. */
void cloudevents_data(const struct encode_options *o, const struct event *e, struct strbuf *out);

#endif
