/* Which tables and actions somebody wants. Pure. */
#ifndef PGHERALD_FILTER_H
#define PGHERALD_FILTER_H

#include "base/glob.h"
#include "conf/settings.h"

struct event;

/* Patterns over schema.table: `*` and `?` (neither crosses the dot between schema and table), `!`
 * at the start negates; a part in double quotes is taken as it is ("" is one quote), so names with
 * dots, stars and blanks can be said. A pattern without a dot means that table in any schema. One
 * that ends in ":insert+update" lets only these actions of its tables through. The
 * last pattern that matches decides; before the first, a table is wanted only when that first one
 * is a negation. */
struct filter {
	struct glob_name *patterns; /* in the arena given to filter_init */
	uint16_t *only;             /* for each pattern: its actions */
	size_t npatterns;
	uint16_t actions; /* ACTION_BITs */
};

int filter_init(struct filter *f, struct arena *arena, const struct strings *tables,
		const struct strings *actions, struct err *err) MUST_CHECK;

/* The actions wanted of this table (0: none). */
uint16_t filter_table(const struct filter *f, struct str schema, struct str table);

/* Whether the table is wanted, and a pattern says its name without wildcards. */
bool filter_names(const struct filter *f, struct str schema, struct str table);

/* Whether every pattern names one whole table (no wildcard, no negation), so that a publication
 * can be made for just these. */
bool filter_is_list(const struct filter *f);

/* The i-th table of such a list. */
void filter_list_table(const struct filter *f, size_t i, struct str *schema, struct str *table);

#endif
