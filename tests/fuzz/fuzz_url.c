/* A URL: parsed, and masked, where the password must be gone. */
#include "base/url.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct strbuf masked = { 0 };
	struct arena arena = { 0 };
	char *text = arena_copy(&arena, (const char *)data, size);
	struct url url;
	struct err err;

	url_mask(&masked, str_c(text));
	if (url_parse(&url, &arena, text, &err) == 0 && url.password &&
	    !strstr(strbuf_cstr(&masked), ":***@"))
		abort();
	strbuf_release(&masked);
	arena_release(&arena);
	return 0;
}
