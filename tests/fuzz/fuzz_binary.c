/* Bytes as values of every built-in type in binary form, and of arrays and ranges of them. The
 * first two bytes choose the type's OID. */
#include "decode/binary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct field fields[2];
	static struct type record = { .kind = TYPE_RECORD, .fields = fields, .nfields = 2 };
	const struct type *type;
	struct strbuf out = { 0 };

	if (size < 2)
		return 0;
	fields[0].type = type_builtin(1009);
	fields[1].type = type_builtin(3910);
	type = type_builtin((uint32_t)(data[0] << 8 | data[1]));
	if (binary_text(type ? type : &record, (struct str){ (const char *)data + 2, size - 2 }, &out))
		out.n = 0;
	strbuf_release(&out);
	return 0;
}
