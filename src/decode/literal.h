/*
 * PostgreSQL's text forms that hold other values: arrays, records, hstore. Pure readers that hand
 * out one element after the other; what was quoted is put together in a buffer of the caller's.
 *
 * Source: PostgreSQL documentation, "Array Input and Output Syntax", "Composite Type Input and
 * Output Syntax", "hstore External Representation".
 */
#ifndef PGHERALD_LITERAL_H
#define PGHERALD_LITERAL_H

#include "base/strbuf.h"

enum literal_token {
	LITERAL_END, /* of the text */
	LITERAL_OPEN,
	LITERAL_CLOSE,
	LITERAL_VALUE,
	LITERAL_QUOTED, /* arrays: a value that stood in quotes, as it stood there */
	LITERAL_NULL,
	LITERAL_BAD, /* not such a literal */
};

/* {1,NULL,"a b"}, with bounds [0:1]={...} before it. The caller sees OPEN, VALUE, NULL and CLOSE
 * in order, then END. */
struct literal_array {
	const char *p;
	const char *end;
	char delim;
	int depth;
	bool value_due; /* a value or an opening brace must come next */
	bool comma;     /* a delimiter stood before the last token */
	bool first;     /* a closing brace may come as well: nothing has been in this one */
};

void literal_array_init(struct literal_array *a, struct str text, char delim);

/* For VALUE and QUOTED, *value is the element, borrowed from the text. In QUOTED a backslash stands
 * before characters that it quotes; literal_unquote takes it away. */
enum literal_token literal_array_next(struct literal_array *a, struct str *value);

/* Appends what was quoted with backslashes, without them. */
void literal_unquote(struct str quoted, struct strbuf *out);

/* (1,"a ""b""",) - VALUE or NULL for each field, then END. A value is put into scratch, behind what
 * is there, and borrowed from it; so it is for hstore. */
struct literal_record {
	const char *p;
	const char *end;
	bool begun;
};

void literal_record_init(struct literal_record *r, struct str text);
enum literal_token literal_record_next(struct literal_record *r, struct strbuf *scratch,
				       struct str *value);

/* "a"=>"1", "b"=>NULL - key and value for each pair, then END. */
struct literal_hstore {
	const char *p;
	const char *end;
	bool begun;
};

void literal_hstore_init(struct literal_hstore *h, struct str text);
enum literal_token literal_hstore_next(struct literal_hstore *h, struct strbuf *scratch,
				       struct str *key, struct str *value);

#endif
