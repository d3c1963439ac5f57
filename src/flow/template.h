/*
 * Templates turn an event into an address: "shop.{schema}.{table}.{action}". Pure.
 *
 *   {db} {name} {schema} {table} {action}   of a change; for a logical message schema is the word
 *                                           "message" and table its prefix
 *   {prefix}                                the logical message's prefix
 *   {category} {stream} {type} {topic}      of a domain event
 *   {new.COLUMN}                            the new row's value; of a delete the old one's
 *   {key.COLUMN}                            the value of a column of the key
 *
 * What a template says itself stands as it is. A value's bytes that the destination forbids or
 * would take for a separator are escaped reversibly: the escape character and two hex digits. A
 * value that is empty, NULL or not there is the escape character and 00.
 */
#ifndef PGHERALD_TEMPLATE_H
#define PGHERALD_TEMPLATE_H

#include "base/err.h"
#include "base/strbuf.h"
#include "event/event.h"

struct template_piece;

struct template
{
	struct template_piece *pieces;
	size_t n;
};

/* How a destination writes addresses. */
struct address_rule {
	bool (*plain)(unsigned char c); /* whether this byte of a value may stand as it is */
	char escape;                    /* never plain */
};

/* The text is copied into the arena. CONFIG for what is no template. */
int template_parse(struct template *t, struct arena *arena, const char *text,
		   struct err *err) MUST_CHECK;

/* Whether it names a column at all. */
bool template_has_columns(const struct template *t);

/* Whether the table has all columns that the template names; CONFIG naming the one it has not. */
int template_check(const struct template *t, const struct relation *rel, struct err *err) MUST_CHECK;

void template_render(const struct template *t, const struct event *e,
		     const struct address_rule *rule, struct strbuf *out);

/* What all its addresses have in common: variables are a *, but {db} and {name}, which are known. */
void template_pattern(const struct template *t, const struct source *source,
		      const struct address_rule *rule, struct strbuf *out);

#endif
