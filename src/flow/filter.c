#include "flow/filter.h"

#include "event/event.h"

static uint16_t action_bit(struct str name)
{
	for (int a = 0; a < ACTION_BEGIN; a++)
		if (str_eq(name, action_names[a]))
			return (uint16_t)ACTION_BIT(a);
	return 0;
}

/* insert+update; all when there is nothing. */
static int parse_only(uint16_t *bits, struct str rest, struct err *err)
{
	*bits = rest.p ? 0 : ACTIONS_ALL;
	while (rest.p) {
		const char *plus = rest.n ? memchr(rest.p, '+', rest.n) : NULL;
		struct str name = { rest.p, plus ? (size_t)(plus - rest.p) : rest.n };
		uint16_t bit = action_bit(name);

		if (!bit)
			return err_set(
				err, ERR_CONFIG,
				"there is no action \"%.*s\"; behind the colon stand actions, "
				"as in orders:insert+update",
				STR_ARG(name));
		*bits |= bit;
		rest = plus ? str_from(rest, name.n + 1) : (struct str){ 0 };
	}
	return 0;
}

static int parse_actions(uint16_t *bits, const struct strings *actions, struct err *err)
{
	*bits = actions->n ? 0 : ACTIONS_ALL;
	for (size_t i = 0; i < actions->n; i++) {
		uint16_t bit = action_bit(str_c(actions->v[i]));

		if (!bit)
			return err_set(err, ERR_CONFIG, "there is no action \"%.100s\"",
				       actions->v[i]);
		*bits |= bit;
	}
	return 0;
}

int filter_init(struct filter *f, struct arena *arena, const struct strings *tables,
		const struct strings *actions, struct err *err)
{
	*f = (struct filter){ .npatterns = tables->n };
	f->patterns = arena_alloc(arena, tables->n * sizeof(*f->patterns));
	f->only = arena_alloc(arena, tables->n * sizeof(*f->only));
	for (size_t i = 0; i < tables->n; i++) {
		const char *copy = arena_copy(arena, tables->v[i], strlen(tables->v[i]));

		if (glob_name_parse(&f->patterns[i], arena, str_c(copy), err) ||
		    parse_only(&f->only[i], f->patterns[i].suffix, err))
			return err_add(err, "tables: \"%.100s\"", copy);
	}
	return parse_actions(&f->actions, actions, err);
}

uint16_t filter_table(const struct filter *f, struct str schema, struct str table)
{
	for (size_t i = f->npatterns; i > 0; i--)
		if (glob_name_match(&f->patterns[i - 1], schema, table))
			return f->patterns[i - 1].negated ? 0 : f->actions & f->only[i - 1];
	return f->npatterns == 0 || f->patterns[0].negated ? f->actions : 0;
}

bool filter_names(const struct filter *f, struct str schema, struct str table)
{
	for (size_t i = f->npatterns; i > 0; i--) {
		const struct glob_name *g = &f->patterns[i - 1];

		if (glob_name_match(g, schema, table))
			return !g->negated && g->name.literal;
	}
	return false;
}

bool filter_is_list(const struct filter *f)
{
	for (size_t i = 0; i < f->npatterns; i++) {
		const struct glob_name *g = &f->patterns[i];

		if (g->negated || !g->qualifier.literal || !g->name.literal)
			return false;
	}
	return f->npatterns > 0;
}

void filter_list_table(const struct filter *f, size_t i, struct str *schema, struct str *table)
{
	*schema = f->patterns[i].qualifier.text;
	*table = f->patterns[i].name.text;
}
