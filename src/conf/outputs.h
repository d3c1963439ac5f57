/* The outputs of settings while they are being read. */
#ifndef PGHERALD_OUTPUTS_H
#define PGHERALD_OUTPUTS_H

#include "conf/options.h"

/* One more output of which nothing is said yet; NULL when there are too many. */
struct output_settings *outputs_add(struct settings *s, struct err *err) MUST_CHECK;

/* The field of an option that is one of outputs, marked as said of this output alone. */
void *outputs_field(struct output_settings *os, const struct option *o);

/* Whether the i-th option was said of this output alone. */
bool outputs_given(const struct output_settings *os, size_t i);

/* Sets the output's URL and takes those parameters out of it that are options. A word without a
 * colon is a scheme alone. */
int outputs_set_url(struct settings *s, struct output_settings *os, struct str url,
		    struct err *err) MUST_CHECK;

/* Gives the outputs what was not said of them alone. */
void outputs_inherit(struct settings *s);

#endif
