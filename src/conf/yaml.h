/*
 * YAML text as a tree that knows its lines: mappings, lists and scalars as text; what a scalar
 * means is the reader's business. ${NAME} in a scalar is replaced by that environment variable, $$
 * is one dollar. Anchors, aliases, tags, several documents, duplicate keys and what is too deep or
 * too large are errors.
 */
#ifndef PGHERALD_YAML_H
#define PGHERALD_YAML_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

/* Lives in the arena given to yaml_tree. */
struct yaml {
	enum yaml_kind kind;
	int line;           /* from 1; of its key where it has one */
	const char *key;    /* in a mapping; NULL elsewhere */
	const char *text;   /* scalar; elsewhere NULL */
	bool absent;        /* scalar: nothing was written, as in "key:" */
	struct yaml *first; /* children */
	struct yaml *next;
};

/* Reads one document; NULL in *root when there is none. CONFIG "NAME:LINE: what is wrong". */
int yaml_tree(struct yaml **root, struct arena *arena, const char *name, struct str text,
	      struct err *err) MUST_CHECK;

#endif
