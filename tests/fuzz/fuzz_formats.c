/*
 * A value's text in every format: type and modes from the first bytes, the text behind them. No
 * format may spin or read outside, and a position must come back from a message that carries one.
 */
#include "encode/encode.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const modes[][5] = {
	{ NULL, NULL, NULL, NULL, NULL },
	{ "double", "connect", "numeric", "base64", "json" },
	{ "string", "isostring", "string", "hex", "map" },
};

/* One of the built-in types, whose OIDs are below 6200. */
static const struct type *choose_type(uint32_t n)
{
	const struct type *type = NULL;

	for (uint32_t oid = n % 6200; !type; oid = (oid + 1) % 6200)
		type = type_builtin(oid);
	return type;
}

/* Where strings are not made of one value alone, broken JSON would hide what comes behind it. */
static bool is_json(const struct type *type)
{
	return type->kind == TYPE_JSON || type->kind == TYPE_JSONB ||
	       (type->elem && is_json(type->elem));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct source source = { .db = STR("db"), .name = STR("name") };
	struct column column = { .field = { .name = STR("c"), .key = STR("\"c\":") },
				 .type_name = STR("type"),
				 .key = true };
	struct relation rel = { .schema = STR("s"), .name = STR("t"), .ncols = 1, .cols = &column };
	struct position place = { 5, 6 }, back;
	struct strbuf out = { 0 };
	struct encode_options o;
	struct value value;
	struct event e;

	if (size < 4)
		return 0;
	column.field.type = choose_type((uint32_t)(data[0] << 8 | data[1]));
	column.type_oid = column.field.type->oid;
	column.typmod = data[2] % 16 - 1;
	o = (struct encode_options){ .decimal_mode = modes[data[3] % 3][0],
				     .time_precision = modes[data[3] % 3][1],
				     .interval_mode = modes[data[3] % 3][2],
				     .binary_mode = modes[data[3] % 3][3],
				     .hstore_mode = modes[data[3] % 3][4] };
	value = (struct value){ (const char *)data + 4, (uint32_t)size - 4, VALUE_TEXT };
	e = (struct event){
		.action = ACTION_INSERT, .position = place, .source = &source, .rel = &rel, .new = &value
	};
	for (const struct format *const *f = encode_formats; *f; f++) {
		out.n = 0;
		if (!(*f)->event(&o, &e, &out) || !(*f)->position || is_json(column.field.type))
			continue;
		if (!(*f)->position(strbuf_view(&out), &back) || position_cmp(back, place) != 0)
			abort();
	}
	strbuf_release(&out);
	return 0;
}
