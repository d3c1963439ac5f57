/* Base64 as RFC 4648 section 4 has it: with + and /, padded, in one line. */
#ifndef PGHERALD_BASE64_H
#define PGHERALD_BASE64_H

#include "base/strbuf.h"

void base64_encode(struct strbuf *b, struct str bytes);

/* The same for bytes written as pairs of hex digits, as in a bytea's text behind its \x. False,
 * and nothing appended, when they are not. */
bool base64_encode_hex(struct strbuf *b, struct str hex);

#endif
