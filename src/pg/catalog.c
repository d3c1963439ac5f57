#include "pg/catalog.h"

#include "base/json.h"
#include "base/strbuf.h"

#include <inttypes.h>
#include <stdlib.h>

/* A type as read, before its parts are linked. */
struct raw {
	struct type *type;
	char typtype;
	uint32_t elem;    /* element, subtype, range or a domain's base; 0: none */
	uint32_t *fields; /* OIDs */
	bool linked;
};

struct lookup {
	PGconn *sql;
	struct types *types;
	struct raw *raws;
	size_t n;
	size_t cap;
};

static uint32_t get_oid(PGresult *res, int row, int column)
{
	return (uint32_t)strtoul(PQgetvalue(res, row, column), NULL, 10);
}

static struct str keep(struct arena *a, const char *s)
{
	size_t n = strlen(s);

	return (struct str){ arena_copy(a, s, n), n };
}

static struct str keep_key(struct arena *a, struct str name)
{
	struct strbuf b = { 0 };
	struct str key;

	json_string(&b, name);
	strbuf_ch(&b, ':');
	key = (struct str){ arena_copy(a, b.p, b.n), b.n };
	strbuf_release(&b);
	return key;
}

static struct raw *add_raw(struct lookup *l, uint32_t oid)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		l->raws = mem_realloc(l->raws, l->cap * sizeof(*l->raws));
	}
	l->raws[l->n] = (struct raw){ .type = types_add(l->types, oid) };
	l->raws[l->n].type->name = STR("unknown");
	return &l->raws[l->n++];
}

static enum type_kind kind_of(char typtype, bool array, bool hstore)
{
	if (typtype == 'c')
		return TYPE_RECORD;
	if (typtype == 'r')
		return TYPE_RANGE;
	if (typtype == 'm')
		return TYPE_MULTIRANGE;
	if (array)
		return TYPE_ARRAY;
	return hstore ? TYPE_HSTORE : TYPE_TEXT;
}

/* One row of the types query. The raw was added under the same OID before. */
static void read_type(struct lookup *l, struct raw *raw, PGresult *res, int row)
{
	struct type *t = raw->type;
	bool array = *PQgetvalue(res, row, 4) == 't';

	raw->typtype = *PQgetvalue(res, row, 1);
	raw->elem = get_oid(res, row, 5);
	t->name = keep(&l->types->arena, PQgetvalue(res, row, 2));
	t->delim = *PQgetvalue(res, row, 3);
	t->kind = kind_of(raw->typtype, array, *PQgetvalue(res, row, 6) == 't');
	t->is_enum = raw->typtype == 'e';
	l->types->composite |= t->kind == TYPE_RECORD;
}

static struct raw *find_raw(struct lookup *l, size_t from, uint32_t oid)
{
	for (size_t i = from; i < l->n; i++)
		if (l->raws[i].type->oid == oid)
			return &l->raws[i];
	return NULL;
}

/* Types of raws[from..n), which were added by OID. */
static int query_types(struct lookup *l, size_t from, const char *oids, struct err *err)
{
	const char *params[] = { oids };
	int version = PQserverVersion(l->sql);
	char query[1200];
	PGresult *res;

	snprintf(query, sizeof(query),
		 "SELECT t.oid, t.typtype, format_type(t.oid, NULL), t.typdelim, %s, "
		 "CASE WHEN t.typtype = 'd' THEN t.typbasetype "
		 "WHEN t.typtype = 'r' THEN (SELECT rngsubtype FROM pg_range WHERE rngtypid = "
		 "t.oid) "
		 "%s ELSE t.typelem END, "
		 "t.typname = 'hstore' AND EXISTS (SELECT FROM pg_cast "
		 "WHERE castsource = t.oid AND casttarget = 'json'::regtype) "
		 "FROM pg_type t WHERE t.oid = ANY ($1::oid[])",
		 version >= 140000 ? "t.typsubscript = 'array_subscript_handler'::regproc"
				   : "t.typelem <> 0 AND t.typlen = -1",
		 version >= 140000 ? "WHEN t.typtype = 'm' THEN "
				     "(SELECT rngtypid FROM pg_range WHERE rngmultitypid = t.oid)"
				   : "");
	res = conn_query(l->sql, err, query, 1, params);
	if (!res)
		return -1;
	for (int i = 0; i < PQntuples(res); i++) {
		struct raw *raw = find_raw(l, from, get_oid(res, i, 0));

		if (raw)
			read_type(l, raw, res, i);
	}
	PQclear(res);
	return 0;
}

/* The attributes of the composite types among raws[from..n). */
static int query_fields(struct lookup *l, size_t from, const char *oids, struct err *err)
{
	const char *params[] = { oids };
	PGresult *res = conn_query(
		l->sql, err,
		"SELECT t.oid, a.attname, a.atttypid, count(*) OVER (PARTITION BY t.oid) "
		"FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid "
		"WHERE t.oid = ANY ($1::oid[]) AND t.typtype = 'c' AND a.attnum > 0 "
		"AND NOT a.attisdropped ORDER BY t.oid, a.attnum",
		1, params);

	if (!res)
		return -1;
	for (int i = 0; i < PQntuples(res); i++) {
		struct raw *raw = find_raw(l, from, get_oid(res, i, 0));
		struct arena *arena = &l->types->arena;
		size_t n = (size_t)strtoul(PQgetvalue(res, i, 3), NULL, 10);
		struct type *t = raw->type;
		struct field *fields;

		if (!raw->fields) {
			raw->fields = arena_alloc(arena, n * sizeof(*raw->fields));
			t->fields = arena_alloc(arena, n * sizeof(*t->fields));
		}
		fields = (struct field *)(uintptr_t)t->fields;
		fields[t->nfields].name = keep(arena, PQgetvalue(res, i, 1));
		fields[t->nfields].key = keep_key(arena, fields[t->nfields].name);
		raw->fields[t->nfields++] = get_oid(res, i, 2);
	}
	PQclear(res);
	return 0;
}

/* Adds a raw for an OID that is not known yet and notes it for the next round. */
static void want(struct lookup *l, struct strbuf *next, uint32_t oid)
{
	if (oid == 0 || types_get(l->types, oid))
		return;
	add_raw(l, oid);
	strbuf_printf(next, "%c%u", next->n ? ',' : '{', oid);
}

static const struct type *part(const struct lookup *l, uint32_t oid)
{
	const struct type *t = types_get(l->types, oid);

	return t ? t : &type_unknown;
}

/* Points a type at its parts. A domain takes over what its base type is, which is linked first. */
static void link_type(struct lookup *l, struct raw *raw)
{
	struct type *t = raw->type;
	struct field *fields = (struct field *)(uintptr_t)t->fields;
	const struct type *base;
	struct raw *base_raw;

	if (raw->linked)
		return;
	raw->linked = true;
	for (uint32_t i = 0; raw->fields && i < t->nfields; i++)
		fields[i].type = part(l, raw->fields[i]);
	if (raw->elem)
		t->elem = part(l, raw->elem);
	if (raw->typtype != 'd')
		return;
	base_raw = find_raw(l, 0, raw->elem);
	if (base_raw)
		link_type(l, base_raw);
	base = part(l, raw->elem);
	t->base = base->base;
	t->kind = base->kind;
	t->is_enum = base->is_enum;
	t->elem = base->elem;
	t->fields = base->fields;
	t->nfields = base->nfields;
}

int catalog_types(PGconn *sql, struct types *types, const uint32_t *oids, size_t n, struct err *err)
{
	struct lookup l = { .sql = sql, .types = types };
	struct strbuf round = { 0 }, next = { 0 };
	size_t from = 0;
	int failed = 0;

	for (size_t i = 0; i < n; i++)
		want(&l, &next, oids[i]);
	while (next.n && !failed) {
		size_t begin = from;

		round.n = 0;
		strbuf_str(&round, strbuf_view(&next));
		strbuf_ch(&round, '}');
		next.n = 0;
		from = l.n;
		failed = query_types(&l, begin, strbuf_cstr(&round), err) ||
			 query_fields(&l, begin, strbuf_cstr(&round), err);
		for (size_t i = begin, end = l.n; i < end && !failed; i++) {
			want(&l, &next, l.raws[i].elem);
			for (uint32_t f = 0; l.raws[i].fields && f < l.raws[i].type->nfields; f++)
				want(&l, &next, l.raws[i].fields[f]);
		}
	}
	for (size_t i = 0; i < l.n; i++)
		link_type(&l, &l.raws[i]);
	free(l.raws);
	strbuf_release(&round);
	strbuf_release(&next);
	return failed ? err_add(err, "looking up types") : 0;
}

static bool is_named(PGresult *res, struct str name)
{
	for (int i = 0; i < PQntuples(res); i++)
		if (str_eq(str_c(PQgetvalue(res, i, 0)), name))
			return true;
	return false;
}

/* FULL flags every column as key; the key that events show is the primary key's. */
static int find_primary(PGconn *sql, struct relation *rel, struct err *err)
{
	char relid[16];
	const char *params[] = { relid };
	PGresult *res;

	snprintf(relid, sizeof(relid), "%u", rel->oid);
	res = conn_query(sql, err,
			 "SELECT a.attname FROM pg_index i JOIN pg_attribute a "
			 "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
			 "WHERE i.indrelid = $1::oid AND i.indisprimary",
			 1, params);
	if (!res)
		return -1;
	for (uint32_t i = 0; i < rel->ncols; i++)
		rel->cols[i].primary = is_named(res, rel->cols[i].field.name);
	PQclear(res);
	return 0;
}

static int name_types(PGconn *sql, struct relation *rel, struct arena *arena, struct err *err)
{
	struct strbuf types = { 0 }, typmods = { 0 };
	const char *params[2];
	PGresult *res;

	for (uint32_t i = 0; i < rel->ncols; i++) {
		strbuf_printf(&types, "%c%u", i ? ',' : '{', rel->cols[i].type_oid);
		strbuf_printf(&typmods, "%c%d", i ? ',' : '{', rel->cols[i].typmod);
	}
	strbuf_ch(&types, '}');
	strbuf_ch(&typmods, '}');
	params[0] = strbuf_cstr(&types);
	params[1] = strbuf_cstr(&typmods);
	res = conn_query(sql, err,
			 "SELECT coalesce(format_type(type, typmod), 'unknown') "
			 "FROM unnest($1::oid[], $2::int4[]) WITH ORDINALITY c(type, typmod, i) "
			 "ORDER BY i",
			 2, params);
	for (uint32_t i = 0; res && i < rel->ncols; i++)
		rel->cols[i].type_name = keep(arena, PQgetvalue(res, (int)i, 0));
	strbuf_release(&types);
	strbuf_release(&typmods);
	PQclear(res);
	return res ? 0 : -1;
}

/* The types of a relation's columns. */
static int find_types(PGconn *sql, struct relation *rel, struct err *err)
{
	struct types *types = &rel->types;
	uint32_t *oids = mem_array(rel->ncols, sizeof(*oids));
	size_t n = 0;
	int failed;

	for (uint32_t i = 0; i < rel->ncols; i++)
		if (!type_builtin(rel->cols[i].type_oid))
			oids[n++] = rel->cols[i].type_oid;
	failed = catalog_types(sql, types, oids, n, err);
	free(oids);
	for (uint32_t i = 0; i < rel->ncols && !failed; i++)
		rel->cols[i].field.type =
			part(&(struct lookup){ .types = types }, rel->cols[i].type_oid);
	return failed;
}

int catalog_relation(PGconn *sql, struct relation *rel, struct arena *arena, struct err *err)
{
	if (rel->ncols == 0)
		return 0;
	return find_types(sql, rel, err) || name_types(sql, rel, arena, err) ||
			       (rel->identity == 'f' && find_primary(sql, rel, err))
		       ? -1
		       : 0;
}

/* One row and column: what the composite ones among the types are made of. */
static PGresult *query_attributes(PGconn *sql, const struct types *types, struct err *err)
{
	struct strbuf oids = { 0 };
	const char *params[1];
	PGresult *res;

	for (uint32_t i = 0; i < types->nslots; i++) {
		const struct type *t = types->slots[i];

		if (t && t->kind == TYPE_RECORD && t->oid == t->base)
			strbuf_printf(&oids, "%c%u", oids.n ? ',' : '{', t->oid);
	}
	strbuf_ch(&oids, '}');
	params[0] = strbuf_cstr(&oids);
	res = conn_query(sql, err,
			 "SELECT string_agg(concat_ws(' ', t.oid, a.attname, a.atttypid), ',' "
			 "ORDER BY t.oid, a.attnum) "
			 "FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid "
			 "WHERE t.oid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped",
			 1, params);
	strbuf_release(&oids);
	return res;
}

int catalog_retype(PGconn *sql, struct relation *rel, struct err *err)
{
	PGresult *res = query_attributes(sql, &rel->types, err);
	struct str now;
	int failed = 0;

	if (!res)
		return -1;
	now = str_c(PQgetvalue(res, 0, 0));
	if (!str_eq(now, rel->types.attributes)) {
		types_release(&rel->types);
		failed = find_types(sql, rel, err);
		rel->types.attributes = keep(&rel->types.arena, now.p);
	}
	PQclear(res);
	return failed;
}

/* Whether namespace n is an event store. */
#define IS_STORE                                                                                   \
	"EXISTS (SELECT FROM pg_class s JOIN pg_trigger t ON t.tgrelid = s.oid "                   \
	"JOIN pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = n.oid AND p.proname = 'publish' " \
	"WHERE s.relnamespace = n.oid AND s.relname = 'stream')"

static enum relation_kind store_kind(const char *name)
{
	if (strcmp(name, "stream") == 0)
		return RELATION_STREAMS;
	return strcmp(name, "entry") == 0 ? RELATION_ENTRIES : RELATION_STORE;
}

int catalog_store(PGconn *sql, struct relation *rel, struct err *err)
{
	char relid[16];
	const char *params[] = { relid };
	PGresult *res;

	snprintf(relid, sizeof(relid), "%u", rel->oid);
	res = conn_query(sql, err,
			 "SELECT n.oid, c.relname FROM pg_class c "
			 "JOIN pg_namespace n ON n.oid = c.relnamespace "
			 "WHERE c.oid = $1::oid AND " IS_STORE,
			 1, params);
	if (!res)
		return -1;
	if (PQntuples(res)) {
		rel->store = get_oid(res, 0, 0);
		rel->kind = store_kind(PQgetvalue(res, 0, 1));
	}
	PQclear(res);
	return 0;
}

static char *identifier(PGconn *sql, struct str name)
{
	char *quoted = PQescapeIdentifier(sql, name.p, name.n);

	if (!quoted)
		mem_die();
	return quoted;
}

/* "10:20:10,14,15": the oldest that ran then, the next to begin, all that ran. These have an epoch,
 * which ours lacks; xids wrap around. */
bool catalog_saw(struct str snapshot, uint32_t xid)
{
	const char *p = snapshot.n ? strchr(snapshot.p, ':') : NULL;
	char *end;

	if (!p || (int32_t)(xid - (uint32_t)strtoull(p + 1, &end, 10)) >= 0)
		return false;
	while (*end == ':' || *end == ',') {
		p = end + 1;
		if ((uint32_t)strtoull(p, &end, 10) == xid && end != p)
			return false;
	}
	return true;
}

int catalog_sees(PGconn *sql, uint32_t xid, struct strbuf *snapshot, struct err *err)
{
	char number[16];
	const char *params[] = { number };
	PGresult *res;
	int seen;

	snprintf(number, sizeof(number), "%" PRIu32, xid);
	/* The xid with its epoch: the one next to those that are handed out now. */
	res = conn_query(sql, err,
			 "SELECT txid_visible_in_snapshot(x + CASE WHEN x - next > 2147483648 "
			 "THEN -4294967296 WHEN next - x > 2147483648 THEN 4294967296 ELSE 0 END, "
			 "now), now FROM (SELECT now, next, "
			 "next / 4294967296 * 4294967296 + $1::bigint AS x FROM (SELECT now, "
			 "txid_snapshot_xmax(now) AS next FROM txid_current_snapshot() now) a) b",
			 1, params);
	if (!res)
		return err_add(err, "looking whether transaction %s can be seen", number);
	seen = *PQgetvalue(res, 0, 0) == 't';
	snapshot->n = 0;
	strbuf_str(snapshot, str_c(PQgetvalue(res, 0, 1)));
	strbuf_cstr(snapshot);
	PQclear(res);
	return seen;
}

int catalog_stream(PGconn *sql, const struct relation *rel, struct str number, struct arena *arena,
		   struct str *category, struct str *id, struct err *err)
{
	const char *params[] = { arena_copy(arena, number.p, number.n) };
	char *schema = identifier(sql, rel->schema);
	struct strbuf q = { 0 };
	PGresult *res;
	bool found;

	strbuf_printf(&q, "SELECT category, id::text FROM %s.stream WHERE number = $1::bigint",
		      schema);
	PQfreemem(schema);
	res = conn_query(sql, err, strbuf_cstr(&q), 1, params);
	strbuf_release(&q);
	if (!res)
		return err_add(err, "looking up the stream of an event");
	found = PQntuples(res) == 1;
	if (found) {
		*category = keep(arena, PQgetvalue(res, 0, 0));
		*id = keep(arena, PQgetvalue(res, 0, 1));
	}
	PQclear(res);
	return found ? 0
		     : err_set(err, ERR_FAIL, "an event's stream, number %s in %.*s.stream, is gone",
			       params[0], STR_ARG(rel->schema));
}

int catalog_is_store(PGconn *sql, struct str schema, bool *is_store, struct err *err)
{
	struct strbuf name = { 0 };
	const char *params[1];
	PGresult *res;

	strbuf_str(&name, schema);
	params[0] = strbuf_cstr(&name);
	res = conn_query(sql, err, "SELECT FROM pg_namespace n WHERE n.nspname = $1 AND " IS_STORE,
			 1, params);
	strbuf_release(&name);
	*is_store = res && PQntuples(res) > 0;
	PQclear(res);
	return res ? 0 : -1;
}

int catalog_is_partitioned(PGconn *sql, struct str schema, struct str table, bool *is, struct err *err)
{
	struct arena arena = { 0 };
	const char *params[] = { arena_copy(&arena, schema.p, schema.n),
				 arena_copy(&arena, table.p, table.n) };
	PGresult *res = conn_query(sql, err,
				   "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = "
				   "c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 "
				   "AND c.relkind = 'p'",
				   2, params);

	arena_release(&arena);
	*is = res && PQntuples(res) > 0;
	PQclear(res);
	return res ? 0 : -1;
}

static struct str text_of(const PGresult *res, int row, int column)
{
	return (struct str){ PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column) };
}

/* The rows from `row` on that are of one table, into rel; returns the row behind them. */
static int take_table(const PGresult *res, int row, struct relation *rel)
{
	rel->schema = text_of(res, row, 0);
	rel->name = text_of(res, row, 1);
	rel->ncols = 0;
	for (; row < PQntuples(res) && str_eq(text_of(res, row, 0), rel->schema) &&
	       str_eq(text_of(res, row, 1), rel->name);
	     row++) {
		struct column *c = &rel->cols[rel->ncols++];

		*c = (struct column){ .field.name = text_of(res, row, 2),
				      .primary = *PQgetvalue(res, row, 3) == 't' };
	}
	return row;
}

int catalog_tables(PGconn *sql, const char *publication,
		   int (*fn)(void *user, const struct relation *rel, struct err *err), void *user,
		   struct err *err)
{
	const char *params[] = { publication };
	struct relation rel = { 0 };
	PGresult *res = conn_query(
		sql, err,
		"SELECT p.schemaname, p.tablename, a.attname, "
		"coalesce(a.attnum = ANY (i.indkey), false) FROM pg_publication_tables p "
		"JOIN pg_namespace n ON n.nspname = p.schemaname "
		"JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename "
		"JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
		"LEFT JOIN pg_index i ON i.indrelid = c.oid "
		"AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END "
		"WHERE p.pubname = $1 AND NOT " IS_STORE " ORDER BY 1, 2, a.attnum",
		1, params);
	int failed = 0;

	if (!res)
		return -1;
	rel.cols = mem_array((size_t)PQntuples(res) + 1, sizeof(*rel.cols));
	for (int row = 0; row < PQntuples(res) && !failed;) {
		row = take_table(res, row, &rel);
		failed = fn(user, &rel, err);
	}
	free(rel.cols);
	PQclear(res);
	return failed;
}
