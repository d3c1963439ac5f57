#include "core/publish.h"

#include "event/event.h"
#include "flow/filter.h"
#include "pg/catalog.h"
#include "pg/preflight.h"
#include "pg/publication.h"

#include <stdlib.h>

/* So many tables are named to people. */
#define MOST_NAMED 10

struct table_list {
	struct publication_table *v;
	size_t n;
	bool roots; /* some are partitioned: who names one wants its events under that name */
};

static void add_table(struct table_list *l, struct str schema, struct str name)
{
	for (size_t i = 0; i < l->n; i++)
		if (str_eq(l->v[i].schema, schema) && str_eq(l->v[i].name, name))
			return;
	l->v = mem_realloc(l->v, (l->n + 1) * sizeof(*l->v));
	l->v[l->n++] = (struct publication_table){ schema, name };
}

/* The tables that a filter names. A category of the event store is in two of the store's. */
static int list_tables(PGconn *sql, const struct filter *f, struct table_list *l, struct err *err)
{
	for (size_t i = 0; i < f->npatterns; i++) {
		struct str schema, name;
		bool is_store, is_root;

		filter_list_table(f, i, &schema, &name);
		if (catalog_is_store(sql, schema, &is_store, err) ||
		    catalog_is_partitioned(sql, schema, name, &is_root, err))
			return -1;
		l->roots |= is_root;
		add_table(l, schema, is_store ? STR("stream") : name);
		if (is_store)
			add_table(l, schema, STR("entry"));
	}
	return 0;
}

/* The actions to publish, "insert, update", for those that are wanted. Domain events are inserts
 * into one of the store's tables, for which another may be updated. */
static void put_actions(struct strbuf *out, uint16_t wanted, int version)
{
	if (wanted & ACTION_BIT(ACTION_EVENT))
		wanted |= ACTION_BIT(ACTION_INSERT) | ACTION_BIT(ACTION_UPDATE);
	for (enum action a = ACTION_INSERT; a <= ACTION_TRUNCATE; a++)
		if (wanted & ACTION_BIT(a) && (a != ACTION_TRUNCATE || version >= 110000))
			strbuf_printf(out, "%s%s", out->n ? ", " : "", action_names[a].p);
}

int publish_create(PGconn *sql, const struct settings *settings, struct err *err)
{
	struct table_list tables = { 0 };
	struct strbuf actions = { 0 };
	struct arena arena = { 0 };
	uint16_t wanted = settings->noutputs ? 0 : ACTIONS_ALL;
	bool listed = settings->noutputs > 0;
	int failed = 0;

	for (size_t i = 0; i < settings->noutputs && !failed; i++) {
		const struct output_settings *o = &settings->outputs[i];
		struct filter f;

		failed = filter_init(&f, &arena, &o->tables, &o->actions, err);
		if (failed)
			break;
		wanted |= f.actions;
		listed = listed && filter_is_list(&f);
		if (listed)
			failed = list_tables(sql, &f, &tables, err);
	}
	put_actions(&actions, wanted, PQserverVersion(sql));
	if (!failed)
		failed = publication_create(sql, settings->publication, tables.v,
					    listed ? tables.n : 0, listed && tables.roots,
					    strbuf_cstr(&actions), err);
	strbuf_release(&actions);
	arena_release(&arena);
	free(tables.v);
	return failed;
}

struct look {
	const struct settings *settings;
	struct filter *filters; /* one for each output */
	bool ours;
	struct strbuf tables, roots;
	size_t ntables, nroots;
};

static void name_table(struct strbuf *names, size_t *n, struct str schema, struct str table)
{
	if (++*n > MOST_NAMED)
		return;
	strbuf_printf(names, "%s\"%.*s\".\"%.*s\"", *n > 1 ? ", " : "", STR_ARG(schema),
		      STR_ARG(table));
}

/* Of a publication that somebody else made only what is named is expected. */
static void on_lacking(void *user, struct str schema, struct str table, bool by_leaves)
{
	struct look *l = user;
	bool wanted = false;

	for (size_t i = 0; i < l->settings->noutputs; i++)
		wanted = wanted || filter_names(&l->filters[i], schema, table) ||
			 (l->ours && !by_leaves && filter_table(&l->filters[i], schema, table));
	if (wanted && by_leaves)
		name_table(&l->roots, &l->nroots, schema, table);
	else if (wanted)
		name_table(&l->tables, &l->ntables, schema, table);
}

static void say_tables(struct strbuf *out, const struct look *l, const char *name)
{
	const char *more = l->ntables > MOST_NAMED ? " and more" : "";

	if (l->ntables)
		strbuf_printf(out,
			      "publication \"%s\" lacks tables that are wanted, which have no "
			      "events%s; run: ALTER PUBLICATION \"%s\" ADD TABLE %.*s",
			      name, more, name, STR_ARG(strbuf_view(&l->tables)));
	if (l->nroots)
		strbuf_printf(
			out,
			"%swhat happens to %.*s comes under the names of its partitions; name "
			"these, or run: ALTER PUBLICATION \"%s\" SET "
			"(publish_via_partition_root = true)",
			out->n ? ". And " : "", STR_ARG(strbuf_view(&l->roots)), name);
}

static void say_actions(struct strbuf *out, uint16_t wanted, uint16_t published, const char *name,
			int version)
{
	struct strbuf all = { 0 }, now = { 0 };

	put_actions(&all, wanted | published, version);
	put_actions(&now, published, version);
	if (all.n != now.n)
		strbuf_printf(out,
			      "%spublication \"%s\" lacks actions that are wanted; run: ALTER "
			      "PUBLICATION \"%s\" SET (publish = '%.*s')",
			      out->n ? ". And " : "", name, name, STR_ARG(strbuf_view(&all)));
	strbuf_release(&all);
	strbuf_release(&now);
}

static void say_finding(void *user, const struct preflight_finding *f)
{
	struct strbuf *out = user;

	strbuf_printf(out, "%s%s; pgherald check has the SQL that mends it", out->n ? ". And " : "",
		      f->text);
}

/* What the server refuses from now on because it is published. */
static int say_refused(PGconn *sql, const struct settings *settings, struct strbuf *out,
		       struct err *err)
{
	struct preflight_callback cb = { say_finding, out };

	return preflight_check(sql, "identity", settings->slot, settings->publication, &cb, err) ||
	       preflight_check(sql, "generated", settings->slot, settings->publication, &cb, err);
}

int publish_lacks(PGconn *sql, const struct settings *settings, struct strbuf *lacks, struct err *err)
{
	const char *name = settings->publication;
	struct look l = { .settings = settings };
	struct publication_state p;
	struct arena arena = { 0 };
	uint16_t wanted = 0;
	int failed = publication_read(sql, name, &p, err);

	l.ours = p.ours;
	l.filters = arena_alloc(&arena, (settings->noutputs + 1) * sizeof(*l.filters));
	for (size_t i = 0; i < settings->noutputs && !failed; i++) {
		const struct output_settings *o = &settings->outputs[i];

		failed = filter_init(&l.filters[i], &arena, &o->tables, &o->actions, err);
		wanted |= l.filters[i].actions;
	}
	if (!failed)
		failed = publication_lacking(sql, name, on_lacking, &l, err);
	if (!failed)
		say_tables(lacks, &l, name);
	if (!failed && p.ours)
		say_actions(lacks, wanted, p.actions, name, PQserverVersion(sql));
	if (!failed)
		failed = say_refused(sql, settings, lacks, err);
	strbuf_release(&l.tables);
	strbuf_release(&l.roots);
	arena_release(&arena);
	return failed;
}
