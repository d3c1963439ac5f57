/* Patterns and a table: one line each, the last two are schema and table. */
#include "flow/filter.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena arena = { 0 };
	char *rest = arena_copy(&arena, (const char *)data, size), *line;
	const char *v[32];
	struct strings tables = { v, 0 }, none = { 0 };
	struct str schema, table;
	struct filter filter;
	struct err err;

	while (tables.n < 32 && (line = strsep(&rest, "\n")))
		v[tables.n++] = line;
	if (tables.n > 2) {
		tables.n -= 2;
		schema = str_c(v[tables.n]);
		table = str_c(v[tables.n + 1]);
		if (filter_init(&filter, &arena, &tables, &none, &err) == 0) {
			filter_table(&filter, schema, table);
			for (size_t i = 0; filter_is_list(&filter) && i < filter.npatterns; i++) {
				filter_list_table(&filter, i, &schema, &table);
				if (!filter_table(&filter, schema, table))
					abort();
			}
		}
	}
	arena_release(&arena);
	return 0;
}
