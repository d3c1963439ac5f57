#include "decode/binary.h"

int binary_text(const struct type *type, struct str bytes, struct strbuf *out)
{
	return -1;
}
