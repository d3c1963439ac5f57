#include "event/domain.h"

#include "base/time.h"

#include <stdlib.h>

#define COLUMN(name, oid, of_key)                                                                  \
	{                                                                                          \
		STR(name), STR("\"" name "\":"), oid, of_key                                       \
	}

static const struct {
	struct str name, json;
	uint32_t type_oid;
	bool key;
} columns[DOMAIN_COLUMNS] = {
	[DOMAIN_CATEGORY] = COLUMN("category", 25, true),
	[DOMAIN_STREAM] = COLUMN("stream", 25, true),
	[DOMAIN_VERSION] = COLUMN("version", 20, false),
	[DOMAIN_ID] = COLUMN("id", 2950, false),
	[DOMAIN_TYPE] = COLUMN("type", 25, false),
	[DOMAIN_DATA] = COLUMN("data", 3802, false),
	[DOMAIN_METADATA] = COLUMN("metadata", 3802, false),
	[DOMAIN_TOPIC] = COLUMN("topic", 25, false),
	[DOMAIN_TIME] = COLUMN("time", 1184, false),
	[DOMAIN_POSITION] = COLUMN("position", 20, false),
};

static void describe(struct domain *d)
{
	d->rel = (struct relation){ .kind = RELATION_EVENTS, .identity = 'i', .cols = d->cols };
	for (int i = 0; i < DOMAIN_COLUMNS; i++) {
		const struct type *type = type_builtin(columns[i].type_oid);

		d->cols[i] = (struct column){ .field = { columns[i].name, columns[i].json, type },
					      .type_name = type->name,
					      .type_oid = columns[i].type_oid,
					      .typmod = -1,
					      .key = columns[i].key,
					      .primary = columns[i].key };
		d->rel.nprimary += columns[i].key;
	}
}

static struct str keep(struct strbuf *b, struct str s)
{
	b->n = 0;
	strbuf_str(b, s);
	return (struct str){ strbuf_cstr(b), b->n };
}

bool domain_event(struct domain *d, struct str schema, struct event *e)
{
	struct str category = value_str(&d->values[DOMAIN_CATEGORY]);
	bool new = !d->rel.output_wants || !str_eq(category, d->rel.name) ||
		   !str_eq(schema, d->rel.schema);

	if (!d->rel.cols)
		describe(d);
	if (new) {
		d->rel.schema = keep(&d->schema, schema);
		d->rel.name = keep(&d->category, category);
	}
	d->rel.ncols = d->values[DOMAIN_POSITION].kind == VALUE_NULL ? DOMAIN_POSITION
								     : DOMAIN_COLUMNS;
	if (d->values[DOMAIN_METADATA].kind == VALUE_NULL)
		d->values[DOMAIN_METADATA] = (struct value){ "{}", 2, VALUE_TEXT };
	e->action = ACTION_EVENT;
	e->rel = &d->rel;
	e->new = d->values;
	e->old = NULL;
	e->old_full = false;
	/* when it was appended; the store takes it from a clock, so it is no infinity */
	(void)time_parse_timestamp(value_str(&d->values[DOMAIN_TIME]), &e->time);
	return new;
}

void domain_forget(struct domain *d)
{
	free(d->rel.output_wants);
	d->rel.output_wants = NULL;
}

void domain_release(struct domain *d)
{
	domain_forget(d);
	strbuf_release(&d->schema);
	strbuf_release(&d->category);
	*d = (struct domain){ 0 };
}

struct str domain_text(const struct event *e, enum domain_column column)
{
	const struct value *v = &e->new[column];

	return v->kind == VALUE_TEXT ? value_str(v) : STR("");
}
