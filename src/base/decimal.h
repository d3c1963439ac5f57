/*
 * Decimal numbers as PostgreSQL writes a numeric: an optional minus, digits, an optional point and
 * more digits.
 */
#ifndef PGHERALD_DECIMAL_H
#define PGHERALD_DECIMAL_H

#include "base/strbuf.h"

/* How many digits stand behind the point. False for other text: NaN, infinities, exponents. */
bool decimal_scale(struct str text, uint32_t *scale);

/* Appends the unscaled value ("-12.340" is -12340) as the shortest big-endian two's complement in
 * base64. Exact for any length, in time that grows with its square. False, and nothing appended,
 * where decimal_scale is false. */
bool decimal_base64(struct strbuf *out, struct str text);

/* The double nearest to the text, which may have an exponent or be NaN or Infinity. False when it
 * is no number. Uses room behind the content of `room`, which stays as it is. The locale of the
 * process does not matter, here and below. */
bool decimal_double(struct strbuf *room, struct str text, double *v);

/* Appends v as JSON with the fewest digits that read back as v, and with ".0" where it would look
 * like an integer; NaN and the infinities, which JSON lacks, as strings. */
void decimal_print(struct strbuf *out, double v);

#endif
