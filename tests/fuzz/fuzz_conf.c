/* YAML text into settings; what was read must be printable and readable again, giving the same. */
#include "conf/document.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *print(const struct settings *s, size_t *n)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, n);

	settings_print(s, f);
	fclose(f);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct settings s, again;
	char *first, *second;
	size_t n, m;
	struct err err;

	settings_init(&s);
	settings_init(&again);
	if (document_read(&s, "f", (struct str){ (const char *)data, size }, &err) == 0) {
		first = print(&s, &n);
		if (document_read(&again, "f", (struct str){ first, n }, &err))
			abort();
		second = print(&again, &m);
		if (n != m || memcmp(first, second, n) != 0)
			abort();
		free(first);
		free(second);
	}
	settings_release(&s);
	settings_release(&again);
	return 0;
}
