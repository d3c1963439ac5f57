/* Writing JSON text. */
#ifndef PGHERALD_JSON_H
#define PGHERALD_JSON_H

#include "base/strbuf.h"

/* Appends s as a JSON string with its quotes. Bytes over 0x7f pass as they are: the caller knows
 * them to be UTF-8 (the server guarantees it, see json_string_checked otherwise). */
void json_string(struct strbuf *b, struct str s);

/* The same without the quotes, for strings made of several parts. */
void json_escape(struct strbuf *b, struct str s);

/* The same for bytes of unknown origin: what is not UTF-8 becomes U+FFFD. */
void json_string_checked(struct strbuf *b, struct str s);

/* The same in printable ASCII only: other characters as \uXXXX, beyond the BMP as surrogate
 * pairs. */
void json_string_ascii(struct strbuf *b, struct str s);

/* Whether s is one valid JSON value (RFC 8259, any depth, white space around allowed). */
bool json_valid(struct str s);

/* Whether PostgreSQL's jsonb takes it too: in UTF-8, with no \u0000 and no half of a surrogate pair. */
bool json_storable(struct str s);

/* Appends an unsigned number in decimal. */
void json_uint(struct strbuf *b, uint64_t v);

/* ---- taking apart text that json_valid has accepted ---- */

/* What stands between the brackets of an object or array. */
struct str json_inside(struct str value);

/* Takes the next member of an object off its inside, or the next element of an array, which has no
 * key (.p is NULL); false at the end. Both are as they are written: a key has its quotes. */
bool json_next(struct str *inside, struct str *key, struct str *value);

/* Appends what a string with its quotes stands for. False where it has NUL or half a surrogate
 * pair. */
bool json_unquote(struct strbuf *b, struct str quoted);

/* Appends the value without white space around and between its parts. */
void json_compact(struct strbuf *b, struct str value);

#endif
