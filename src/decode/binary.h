/* Values in PostgreSQL's binary form. */
#ifndef PGHERALD_BINARY_H
#define PGHERALD_BINARY_H

#include "base/strbuf.h"
#include "event/type.h"

int binary_text(const struct type *type, struct str bytes, struct strbuf *out);

#endif
