/* Column values as Debezium's PostgreSQL connector shows them without schemas. */
#ifndef PGHERALD_DEBEZIUM_VALUE_H
#define PGHERALD_DEBEZIUM_VALUE_H

#include "encode/encode.h"

/* Appends the value of a column, not VALUE_UNCHANGED, as one JSON value without newlines. */
void debezium_value(const struct encode_options *o, const struct column *c, const struct value *v,
		    struct strbuf *out);

/* Appends what stands for a value that was not sent because it did not change. */
void debezium_value_unavailable(const struct encode_options *o, const struct type *type,
				struct strbuf *out);

/* Appends bytes in the output's binary mode. */
void debezium_value_bytes(const struct encode_options *o, struct str bytes, struct strbuf *out);

#endif
