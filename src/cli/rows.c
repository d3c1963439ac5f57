#include "cli/rows.h"

#include "base/json.h"

#include <stdbool.h>

static bool is_counted(const char *name)
{
	static const char *const counted[] = { "position", "version", "partition",
					       "behind",   "parked",  "attempts" };

	for (size_t i = 0; i < sizeof(counted) / sizeof(*counted); i++)
		if (strcmp(name, counted[i]) == 0)
			return true;
	return false;
}

static void put_value(struct strbuf *b, const char *name, const char *value)
{
	if (!value)
		strbuf_lit(b, "null");
	else if (strcmp(name, "stopped") == 0)
		strbuf_str(b, *value == 't' ? STR("true") : STR("false"));
	else if (is_counted(name) && !value[strspn(value, "-0123456789")])
		strbuf_str(b, str_c(value));
	else
		json_string(b, str_c(value));
}

void rows_json(struct strbuf *b, int n, const char *const *names, const char *const *values)
{
	for (int i = 0; i < n; i++) {
		strbuf_ch(b, i ? ',' : '{');
		json_string(b, str_c(names[i]));
		strbuf_ch(b, ':');
		put_value(b, names[i], values[i]);
	}
	strbuf_ch(b, '}');
}
