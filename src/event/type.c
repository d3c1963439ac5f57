#include "event/type.h"

#include <stdlib.h>

struct builtin {
	uint32_t oid;
	uint32_t array;
	enum type_kind kind;
	uint32_t elem;
	char delim;
	const char *name;
};

static const struct builtin builtins[] = {
#include "event/types.inc"
};

#define NBUILTINS (sizeof(builtins) / sizeof(builtins[0]))

const struct type type_unknown = { .kind = TYPE_TEXT, .delim = ',', .name = STR("unknown") };

/* Each built-in type and, behind them, its array; filled once before main. */
static struct type types[2 * NBUILTINS];
static char array_names[NBUILTINS][48];

/* Built-in OIDs are below 10000: a direct index, 0 for none. */
static uint16_t index_by_oid[10000];

static void __attribute__((constructor)) type_init(void)
{
	for (size_t i = 0; i < NBUILTINS; i++) {
		const struct builtin *b = &builtins[i];
		size_t n = strlen(b->name);

		types[i] = (struct type){ .oid = b->oid,
					  .base = b->oid,
					  .kind = b->kind,
					  .delim = b->delim,
					  .name = str_c(b->name) };
		index_by_oid[b->oid] = (uint16_t)(i + 1);
		if (!b->array)
			continue;
		memcpy(array_names[i], b->name, n);
		memcpy(array_names[i] + n, "[]", 3);
		types[NBUILTINS + i] = (struct type){
			.oid = b->array,
			.base = b->array,
			.kind = TYPE_ARRAY,
			.delim = ',',
			.name = { array_names[i], n + 2 },
			.elem = &types[i],
		};
		index_by_oid[b->array] = (uint16_t)(NBUILTINS + i + 1);
	}
	for (size_t i = 0; i < NBUILTINS; i++)
		if (builtins[i].elem)
			types[i].elem = type_builtin(builtins[i].elem);
}

const struct type *type_builtin(uint32_t oid)
{
	uint16_t i = oid < 10000 ? index_by_oid[oid] : 0;

	return i ? &types[i - 1] : NULL;
}

static struct type **slot(const struct types *t, uint32_t oid)
{
	uint32_t i = oid * 2654435761u & (t->nslots - 1);

	while (t->slots[i] && t->slots[i]->oid != oid)
		i = (i + 1) & (t->nslots - 1);
	return &t->slots[i];
}

const struct type *types_get(const struct types *t, uint32_t oid)
{
	const struct type *builtin = type_builtin(oid);

	if (builtin || !t->nslots)
		return builtin;
	return *slot(t, oid);
}

static void grow(struct types *t)
{
	struct type **old = t->slots;
	uint32_t n = t->nslots;

	t->nslots = n ? n * 2 : 64;
	t->slots = mem_array(t->nslots, sizeof(struct type *));
	for (uint32_t i = 0; i < n; i++)
		if (old[i])
			*slot(t, old[i]->oid) = old[i];
	free(old);
}

struct type *types_add(struct types *t, uint32_t oid)
{
	struct type *type = arena_alloc(&t->arena, sizeof(*type));
	struct type **at;

	*type = (struct type){ .oid = oid, .base = oid, .delim = ',' };
	if (t->n * 2 >= t->nslots)
		grow(t);
	at = slot(t, oid);
	t->n += *at == NULL;
	*at = type;
	return type;
}

void types_release(struct types *t)
{
	free(t->slots);
	arena_release(&t->arena);
	*t = (struct types){ 0 };
}
