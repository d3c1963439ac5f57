/* Texts of every kind of type: arrays, records, hstore, times, numbers. Whatever comes in, one
 * valid JSON value on one line comes out. The first byte chooses the type. */
#include "base/json.h"
#include "base/utf8.h"
#include "encode/value.h"

#include <stdlib.h>

static const struct type *choose(uint8_t i)
{
	static const uint32_t builtin[] = { 16, 20,   23,   25,   1700, 701,  1082, 1114, 1184,
					    17, 1009, 1007, 1231, 1185, 1020, 22,   3904, 199 };
	static struct field fields[3];
	static struct type record = {
		.kind = TYPE_RECORD, .fields = fields, .nfields = 3, .delim = ','
	};
	static struct type records = { .kind = TYPE_ARRAY, .elem = &record, .delim = ',' };
	static struct type hstore = { .kind = TYPE_HSTORE, .delim = ',' };
	const struct type *made[] = { &record, &records, &hstore };
	size_t n = sizeof(builtin) / sizeof(builtin[0]);

	fields[0] = (struct field){ STR("a"), STR("\"a\":"), type_builtin(23) };
	fields[1] = (struct field){ STR("b"), STR("\"b\":"), type_builtin(1009) };
	fields[2] = (struct field){ STR("c"), STR("\"c\":"), &records };
	i %= n + 3;
	return i < n ? type_builtin(builtin[i]) : made[i - n];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct encode_options options = { 0 };
	struct str text = { (const char *)data + 2, size - 2 };
	struct strbuf out = { 0 };

	if (size < 2 || !utf8_valid(text))
		return 0;
	options.timestamps = data[1] & 1 ? TIME_EPOCH_US : TIME_ISO;
	options.bytea = data[1] & 2 ? BYTEA_BASE64 : BYTEA_HEX;
	value_json(&options, choose(data[0]), text, &out);
	/* json is passed on as the server vouches for it */
	if (choose(data[0])->kind != TYPE_ARRAY || choose(data[0])->elem->kind != TYPE_JSON)
		if (!json_valid(strbuf_view(&out)) || memchr(out.p, '\n', out.n))
			abort();
	strbuf_release(&out);
	return 0;
}
