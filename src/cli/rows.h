/* A row of one of the store's lists, as a JSON object. */
#ifndef PGHERALD_ROWS_H
#define PGHERALD_ROWS_H

#include "base/strbuf.h"

/* Counts and positions are numbers, true and false are bare, the rest is text or null. */
void rows_json(struct strbuf *b, int n, const char *const *names, const char *const *values);

#endif
