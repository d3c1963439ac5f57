/* UTF-8 (RFC 3629): no surrogates, no overlong forms, up to U+10FFFF. */
#ifndef PGHERALD_UTF8_H
#define PGHERALD_UTF8_H

#include "base/strbuf.h"

/* Bytes of the valid sequence at p (1 to 4), or 0 when there is none. */
size_t utf8_len(const char *p, const char *end);

bool utf8_valid(struct str s);

/* Appends s with each byte that does not belong to a valid sequence replaced by U+FFFD. */
void utf8_replace(struct strbuf *out, struct str s);

#endif
