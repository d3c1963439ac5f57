/*
 * What is known about a PostgreSQL data type: enough to turn its text form into JSON.
 *
 * Built-in types come from a table, so that most relations need no look-up. All others are read
 * from the catalog (pg/catalog.h) into a struct types, which owns them until it is released or
 * they are forgotten. A type that nothing explains has kind TYPE_TEXT.
 */
#ifndef PGHERALD_TYPE_H
#define PGHERALD_TYPE_H

#include "base/mem.h"
#include "base/str.h"

enum type_kind {
	TYPE_TEXT, /* anything shown as PostgreSQL's text form in a string */
	TYPE_BOOL,
	TYPE_INT, /* int2, int4 */
	TYPE_INT8,
	TYPE_NUMERIC,
	TYPE_FLOAT, /* float4, float8 */
	TYPE_DATE,
	TYPE_TIMESTAMP,
	TYPE_TIMESTAMPTZ,
	TYPE_BYTEA,
	TYPE_JSON,
	TYPE_JSONB,
	TYPE_ARRAY,  /* elem */
	TYPE_VECTOR, /* int2vector, oidvector: elements between blanks; elem */
	TYPE_RECORD, /* fields */
	TYPE_HSTORE,
	TYPE_RANGE,      /* elem is the subtype; shown as text */
	TYPE_MULTIRANGE, /* elem is the range type; shown as text */
};

struct type {
	uint32_t oid;
	uint32_t base;       /* a domain's innermost base type, otherwise oid */
	enum type_kind kind; /* a domain has its base's kind, elem and fields */
	char delim;          /* between elements of an array of this type; ',' but for box ';' */
	bool is_enum;        /* an enum, or a domain over one */
	struct str name;     /* format_type(oid, NULL): "integer", "character varying" */
	const struct type *elem;
	const struct field *fields;
	uint32_t nfields;
};

/* A composite type's attribute, or a relation's column as far as values go. */
struct field {
	struct str name;
	struct str key; /* the name as a JSON key with its colon: "name": */
	const struct type *type;
};

/* The built-in type with this OID, or NULL. Lives for ever. */
const struct type *type_builtin(uint32_t oid);

/* Stands for every type that nothing explains. */
extern const struct type type_unknown;

/* Types by OID; a zeroed struct is an empty one. Not for use by several threads. */
struct types {
	struct arena arena;
	struct type **slots; /* open addressing by oid */
	uint32_t nslots;
	uint32_t n;
	bool composite; /* some are: their attributes change without a word of the server's */
	struct str attributes; /* of those, as the catalog told them last; empty: not asked yet */
};

/* The type with this OID, built-in or added, or NULL when it has to be looked up. */
const struct type *types_get(const struct types *t, uint32_t oid);

/* A new zeroed type with this OID, base = oid and delim = ','; strings and fields of it are to be
 * allocated from t->arena. An older one with the same OID stays valid but is no longer found. */
struct type *types_add(struct types *t, uint32_t oid);

void types_release(struct types *t);

#endif
