/*
 * Values in PostgreSQL's binary form (what each type's send function writes), made the text that
 * its output function gives under the settings that sessions are pinned to. Pure.
 *
 * Source: the send and recv functions in PostgreSQL's src/backend/utils/adt; there is no chapter.
 */
#ifndef PGHERALD_BINARY_H
#define PGHERALD_BINARY_H

#include "base/strbuf.h"
#include "event/type.h"

/* Appends the text. Returns -1 when the type's binary form is not known here or the bytes are not
 * of it; what was appended then means nothing. */
int binary_text(const struct type *type, struct str bytes, struct strbuf *out);

#endif
