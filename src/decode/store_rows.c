#include "decode/store_rows.h"

/* The value of a column by its name; absent ones are NULL. */
static struct value get(const struct event *row, struct str name)
{
	for (uint32_t i = 0; i < row->rel->ncols; i++)
		if (str_eq(row->rel->cols[i].field.name, name))
			return row->new[i];
	return (struct value){ .kind = VALUE_NULL };
}

static void keep(struct strbuf *b, struct str s)
{
	b->n = 0;
	strbuf_str(b, s);
}

void store_rows_stream(struct store_rows *s, uint32_t store, struct str number, struct str category,
		       struct str stream)
{
	s->store = store;
	keep(&s->number, number);
	keep(&s->category, category);
	keep(&s->stream, stream);
}

static void take_stream(struct store_rows *s, const struct event *row)
{
	struct value number = get(row, STR("number")), category = get(row, STR("category"));
	struct value id = get(row, STR("id"));

	if (number.kind == VALUE_TEXT && category.kind == VALUE_TEXT && id.kind == VALUE_TEXT)
		store_rows_stream(s, row->rel->store, value_str(&number), value_str(&category),
				  value_str(&id));
}

struct str store_rows_number(const struct event *row)
{
	struct value number = get(row, STR("stream_number"));

	return number.kind == VALUE_TEXT ? value_str(&number) : STR("");
}

uint16_t store_rows_wanted(const struct relation *rel)
{
	if (rel->kind == RELATION_STREAMS)
		return ACTION_BIT(ACTION_INSERT) | ACTION_BIT(ACTION_UPDATE);
	return rel->kind == RELATION_ENTRIES ? ACTION_BIT(ACTION_INSERT) : 0;
}

static struct value text(const struct strbuf *b)
{
	return (struct value){ b->p, (uint32_t)b->n, VALUE_TEXT };
}

static void fill(struct store_rows *s, const struct event *row)
{
	static const struct {
		enum domain_column column;
		struct str name;
	} same[] = {
		{ DOMAIN_VERSION, STR("version") },   { DOMAIN_ID, STR("id") },
		{ DOMAIN_TYPE, STR("type") },         { DOMAIN_DATA, STR("data") },
		{ DOMAIN_METADATA, STR("metadata") }, { DOMAIN_TOPIC, STR("topic") },
		{ DOMAIN_TIME, STR("time") },
	};
	struct value *values = s->domain.values;

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
		values[same[i].column] = get(row, same[i].name);
	values[DOMAIN_CATEGORY] = text(&s->category);
	values[DOMAIN_STREAM] = text(&s->stream);
	values[DOMAIN_POSITION] = (struct value){ .kind = VALUE_NULL };
}

enum store_row store_rows_take(struct store_rows *s, const struct event *row, struct event *out,
			       bool *replan)
{
	if (row->rel->kind == RELATION_STREAMS && row->new)
		take_stream(s, row);
	if (row->rel->kind != RELATION_ENTRIES || row->action != ACTION_INSERT)
		return STORE_ROW_NOTHING;
	if (s->store != row->rel->store || !str_eq(strbuf_view(&s->number), store_rows_number(row)))
		return STORE_ROW_UNKNOWN_STREAM;
	*out = *row;
	fill(s, row);
	*replan = domain_event(&s->domain, row->rel->schema, out);
	return STORE_ROW_EVENT;
}

void store_rows_release(struct store_rows *s)
{
	domain_release(&s->domain);
	strbuf_release(&s->number);
	strbuf_release(&s->category);
	strbuf_release(&s->stream);
}
