/* The public face: what can be read from an event. */
#include "base/time.h"
#include "encode/encode.h"
#include "lib/herald.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>

static const char *cstr(const struct herald_event *e, struct str s)
{
	return arena_copy(e->arena, s.p, s.n);
}

enum herald_action herald_action(const struct herald_event *e)
{
	return (enum herald_action)ACTION_BIT(e->e->action);
}

const char *herald_action_name(const struct herald_event *e)
{
	return action_names[e->e->action].p;
}

struct herald_position herald_position(const struct herald_event *e)
{
	return (struct herald_position){ e->e->position.lsn, e->e->position.ordinal };
}

const char *herald_id(const struct herald_event *e, char buf[HERALD_ID_SIZE])
{
	position_print(e->e->position, buf);
	buf[POSITION_LEN] = '\0';
	return buf;
}

uint32_t herald_xid(const struct herald_event *e)
{
	return e->e->xid;
}

int64_t herald_time(const struct herald_event *e)
{
	return e->e->time;
}

const char *herald_database(const struct herald_event *e)
{
	return cstr(e, e->e->source->db);
}

const char *herald_schema(const struct herald_event *e)
{
	return e->e->rel ? e->e->rel->schema.p : "";
}

const char *herald_table(const struct herald_event *e)
{
	return e->e->rel ? e->e->rel->name.p : "";
}

const char *herald_json(const struct herald_event *e, size_t *n)
{
	static const struct encode_options options;
	struct strbuf out = { 0 };
	const char *text;

	format_native.event(&options, e->e, &out);
	text = cstr(e, strbuf_view(&out));
	if (n)
		*n = out.n;
	strbuf_release(&out);
	return text;
}

const char *herald_prefix(const struct herald_event *e)
{
	return cstr(e, e->e->prefix);
}

const char *herald_content(const struct herald_event *e, size_t *n)
{
	if (n)
		*n = e->e->content.n;
	return cstr(e, e->e->content);
}

int herald_columns(const struct herald_event *e)
{
	return e->e->rel ? (int)e->e->rel->ncols : 0;
}

/* NULL for a number that is no column. */
static const struct column *column_at(const struct herald_event *e, int column)
{
	return column >= 0 && column < herald_columns(e) ? &e->e->rel->cols[column] : NULL;
}

const char *herald_column_name(const struct herald_event *e, int column)
{
	const struct column *c = column_at(e, column);

	return c ? c->field.name.p : NULL;
}

const char *herald_column_type(const struct herald_event *e, int column)
{
	const struct column *c = column_at(e, column);

	return c ? cstr(e, c->type_name) : NULL;
}

int herald_column_is_key(const struct herald_event *e, int column)
{
	const struct column *c = column_at(e, column);

	return c && c->primary;
}

int herald_column(const struct herald_event *e, const char *name)
{
	for (int i = 0; i < herald_columns(e); i++)
		if (str_eq(e->e->rel->cols[i].field.name, str_c(name)))
			return i;
	return -1;
}

/* ---- values ---- */

/* NULL where there is none: no such row or column, or an old row that holds only the key. */
static const struct value *value_at(const struct herald_event *e, enum herald_side side, int column)
{
	const struct value *row = side == HERALD_NEW ? e->e->new : e->e->old;
	const struct column *c = column_at(e, column);

	if (!row || !c || (side == HERALD_OLD && !e->e->old_full && !c->key))
		return NULL;
	return &row[column];
}

enum herald_kind herald_kind(const struct herald_event *e, enum herald_side side, int column)
{
	static const enum herald_kind kinds[] = {
		[TYPE_TEXT] = HERALD_TEXT,        [TYPE_BOOL] = HERALD_BOOL,
		[TYPE_INT] = HERALD_INTEGER,      [TYPE_INT8] = HERALD_INTEGER,
		[TYPE_NUMERIC] = HERALD_NUMERIC,  [TYPE_FLOAT] = HERALD_FLOAT,
		[TYPE_DATE] = HERALD_TIME,        [TYPE_TIMESTAMP] = HERALD_TIME,
		[TYPE_TIMESTAMPTZ] = HERALD_TIME, [TYPE_BYTEA] = HERALD_BYTES,
		[TYPE_JSON] = HERALD_JSON,        [TYPE_JSONB] = HERALD_JSON,
		[TYPE_ARRAY] = HERALD_TEXT,       [TYPE_VECTOR] = HERALD_TEXT,
		[TYPE_RECORD] = HERALD_TEXT,      [TYPE_HSTORE] = HERALD_TEXT,
		[TYPE_RANGE] = HERALD_TEXT,       [TYPE_MULTIRANGE] = HERALD_TEXT,
	};
	const struct value *v = value_at(e, side, column);

	if (!v)
		return HERALD_ABSENT;
	if (v->kind == VALUE_NULL)
		return HERALD_NULL;
	if (v->kind == VALUE_UNCHANGED)
		return HERALD_UNCHANGED;
	return kinds[e->e->rel->cols[column].field.type->kind];
}

const char *herald_text(const struct herald_event *e, enum herald_side side, int column, size_t *n)
{
	const struct value *v = value_at(e, side, column);

	if (n)
		*n = 0;
	if (!v || v->kind != VALUE_TEXT)
		return NULL;
	if (n)
		*n = v->n;
	return cstr(e, value_str(v));
}

int herald_int64(const struct herald_event *e, enum herald_side side, int column, int64_t *value)
{
	const char *text;
	char *end;

	if (herald_kind(e, side, column) != HERALD_INTEGER)
		return -1;
	text = herald_text(e, side, column, NULL);
	errno = 0;
	*value = strtoll(text, &end, 10);
	return errno || *end || end == text ? -1 : 0;
}

int herald_double(const struct herald_event *e, enum herald_side side, int column, double *value)
{
	enum herald_kind kind = herald_kind(e, side, column);
	const char *text;
	locale_t c;
	char *end;

	if (kind != HERALD_INTEGER && kind != HERALD_NUMERIC && kind != HERALD_FLOAT)
		return -1;
	text = herald_text(e, side, column, NULL);
	c = newlocale(LC_ALL_MASK, "C", NULL); /* the program's own may want another point */
	if (!c)
		return -1;
	*value = strtod_l(text, &end, c);
	freelocale(c);
	return *end || end == text ? -1 : 0;
}

int herald_bool(const struct herald_event *e, enum herald_side side, int column, int *value)
{
	if (herald_kind(e, side, column) != HERALD_BOOL)
		return -1;
	*value = *herald_text(e, side, column, NULL) == 't';
	return 0;
}

int herald_time_us(const struct herald_event *e, enum herald_side side, int column, int64_t *value)
{
	struct str text;
	int64_t days;

	if (herald_kind(e, side, column) != HERALD_TIME)
		return -1;
	text = value_str(value_at(e, side, column));
	if (e->e->rel->cols[column].field.type->kind != TYPE_DATE)
		return time_parse_timestamp(text, value) ? 0 : -1;
	return time_parse_date(text, &days) && !__builtin_mul_overflow(days, TIME_DAY, value) ? 0
											      : -1;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

const unsigned char *herald_bytes(const struct herald_event *e, enum herald_side side, int column,
				  size_t *n)
{
	unsigned char *bytes;
	struct str hex;

	if (herald_kind(e, side, column) != HERALD_BYTES)
		return NULL;
	hex = value_str(value_at(e, side, column));
	if (hex.n % 2 || !str_starts(hex, STR("\\x")))
		return NULL;
	hex = str_from(hex, 2);
	bytes = arena_alloc(e->arena, hex.n / 2 + 1);
	for (size_t i = 0; i < hex.n; i += 2) {
		int high = hex_digit(hex.p[i]), low = hex_digit(hex.p[i + 1]);

		if (high < 0 || low < 0)
			return NULL;
		bytes[i / 2] = (unsigned char)(high << 4 | low);
	}
	*n = hex.n / 2;
	return bytes;
}
