#include "store/migrations.h"

#include <ctype.h>

#include "migrations.inc"

int migrations_last(void)
{
	const struct migration *m = migrations;

	while (m[1].number)
		m++;
	return m->number;
}

int migrations_check_schema(const char *schema, struct err *err)
{
	bool good = *schema && !isdigit((unsigned char)*schema) && strncmp(schema, "pg_", 3) != 0;

	for (const char *c = schema; *c && good; c++)
		good = islower((unsigned char)*c) || isdigit((unsigned char)*c) || *c == '_';
	if (good)
		return 0;
	return err_set(err, ERR_CONFIG,
		       "\"%s\" cannot be the store's schema: lower-case letters, digits and "
		       "underscores, and not pg_",
		       schema);
}

static bool in_word(char c)
{
	return isalnum((unsigned char)c) || c == '_';
}

void migrations_write(struct strbuf *out, const char *sql, const char *schema)
{
	const char *from = sql, *at = sql;

	while ((at = strstr(at, "herald")) != NULL) {
		bool begins = at == sql || !in_word(at[-1]);

		if (begins) {
			strbuf_add(out, from, (size_t)(at - from));
			strbuf_str(out, str_c(schema));
		}
		at += strlen("herald");
		if (begins)
			from = at;
	}
	strbuf_str(out, str_c(from));
}
