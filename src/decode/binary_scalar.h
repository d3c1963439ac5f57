/* Single values in binary form; binary.c has what is built of others. */
#ifndef PGHERALD_BINARY_SCALAR_H
#define PGHERALD_BINARY_SCALAR_H

#include "base/cursor.h"
#include "base/strbuf.h"

/* Reads one value from the cursor, all that it holds, and appends its text. The caller checks that
 * the cursor is not bad and at its end. */
typedef void binary_fn(struct cursor *c, struct strbuf *out);

/* NULL: not known. */
binary_fn *binary_scalar(uint32_t oid);

/* As PostgreSQL prints it: the fewest digits that read back as the same value. */
void binary_float8(struct strbuf *out, double v);

#endif
