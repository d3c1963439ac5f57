/* Text that is made in place and only then becomes a JSON string. */
#ifndef PGHERALD_QUOTE_H
#define PGHERALD_QUOTE_H

#include "base/strbuf.h"

/* Makes what was appended since b->n was `at` (UTF-8) the content of one JSON string. */
void quote_since(struct strbuf *b, size_t at);

#endif
