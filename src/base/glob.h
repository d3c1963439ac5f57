/* Globs: `*` is any run of characters, `?` is one character of UTF-8. */
#ifndef PGHERALD_GLOB_H
#define PGHERALD_GLOB_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

/* Whether the whole text matches; time is at most pattern times text. */
bool glob_match(struct str pattern, struct str text);

/* One part of a dotted name. A literal is compared as it is. */
struct glob {
	struct str text;
	bool literal;
};

/* A pattern over qualifier.name as people write it: each part is a glob or, in double quotes, a
 * name taken as it is ("" inside is one quote). `!` before all negates. What stands behind a colon
 * outside of quotes is for the caller. */
struct glob_name {
	bool negated;
	struct glob qualifier; /* the glob `*` when there was no dot */
	struct glob name;
	struct str suffix;
};

/* Parses one pattern; what it points to is in the arena or in text. CONFIG with what is wrong. */
int glob_name_parse(struct glob_name *g, struct arena *arena, struct str text,
		    struct err *err) MUST_CHECK;

bool glob_name_match(const struct glob_name *g, struct str qualifier, struct str name);

#endif
