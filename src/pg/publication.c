#include "pg/publication.h"

#include "base/strbuf.h"

#include <stdlib.h>

#define MARK "made by pgherald"

int publication_read(PGconn *sql, const char *name, struct publication_state *p, struct err *err)
{
	const char *params[] = { name };
	char query[300];
	PGresult *res;

	*p = (struct publication_state){ 0 };
	snprintf(query, sizeof(query),
		 "SELECT obj_description(oid, 'pg_publication') LIKE '" MARK "%%', "
		 "pubinsert, pubupdate, pubdelete, %s FROM pg_publication WHERE pubname = $1",
		 PQserverVersion(sql) >= 110000 ? "pubtruncate" : "false");
	res = conn_query(sql, err, query, 1, params);
	if (!res)
		return -1;
	p->exists = PQntuples(res) == 1;
	p->ours = p->exists && *PQgetvalue(res, 0, 0) == 't';
	for (int a = ACTION_INSERT; p->exists && a <= ACTION_TRUNCATE; a++)
		if (*PQgetvalue(res, 0, 1 + a - ACTION_INSERT) == 't')
			p->actions |= (uint16_t)ACTION_BIT(a);
	PQclear(res);
	return 0;
}

static void put_identifier(struct strbuf *b, struct str name)
{
	strbuf_ch(b, '"');
	for (size_t i = 0; i < name.n; i++) {
		if (name.p[i] == '"')
			strbuf_ch(b, '"');
		strbuf_ch(b, name.p[i]);
	}
	strbuf_ch(b, '"');
}

/* Without its generated columns a table with REPLICA IDENTITY FULL could not be written to any more
 * (PostgreSQL 18, which can publish the stored ones). */
static void build_create(struct strbuf *q, int version, const char *name,
			 const struct publication_table *tables, size_t ntables, bool via_root,
			 const char *actions)
{
	strbuf_lit(q, "CREATE PUBLICATION ");
	put_identifier(q, str_c(name));
	if (ntables == 0)
		strbuf_lit(q, " FOR ALL TABLES");
	for (size_t i = 0; i < ntables; i++) {
		strbuf_str(q, i ? STR(", ") : STR(" FOR TABLE "));
		put_identifier(q, tables[i].schema);
		strbuf_ch(q, '.');
		put_identifier(q, tables[i].name);
	}
	strbuf_printf(q, " WITH (publish = '%s'%s%s)", actions,
		      via_root && version >= 130000 ? ", publish_via_partition_root = true" : "",
		      version >= 180000 ? ", publish_generated_columns = stored" : "");
}

int publication_create(PGconn *sql, const char *name, const struct publication_table *tables,
		       size_t ntables, bool via_root, const char *actions, struct err *err)
{
	struct publication_state now = { 0 };
	struct strbuf q = { 0 };
	PGresult *res;
	int failed = 0;

	build_create(&q, PQserverVersion(sql), name, tables, ntables, via_root, actions);
	strbuf_lit(&q, "; COMMENT ON PUBLICATION ");
	put_identifier(&q, str_c(name));
	strbuf_lit(&q, " IS '" MARK "'");
	res = conn_query(sql, err, strbuf_cstr(&q), 0, NULL);
	PQclear(res);
	if (!res && (publication_read(sql, name, &now, &(struct err){ 0 }) || !now.exists)) {
		q.n = 0;
		build_create(&q, PQserverVersion(sql), name, tables, ntables, via_root, actions);
		failed = err_add(err, "cannot create publication \"%s\"; let its owner run: %s",
				 name, strbuf_cstr(&q));
	}
	strbuf_release(&q);
	return failed;
}

int publication_lacking(PGconn *sql, const char *name,
			void (*fn)(void *user, struct str schema, struct str table, bool by_leaves),
			void *user, struct err *err)
{
	const char *params[] = { name };
	PGresult *res = conn_query(
		sql, err,
		"SELECT n.nspname, c.relname, c.relkind = 'p' AND (p.puballtables OR EXISTS "
		"(SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid)) "
		"FROM pg_publication p, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
		"WHERE p.pubname = $1 AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' "
		"AND (c.relkind = 'p' OR NOT p.puballtables) AND c.oid >= 16384 "
		"AND n.nspname <> 'information_schema' AND NOT EXISTS "
		"(SELECT FROM pg_publication_tables t WHERE t.pubname = p.pubname "
		"AND t.schemaname = n.nspname AND t.tablename = c.relname) ORDER BY 1, 2",
		1, params);

	if (!res)
		return -1;
	for (int i = 0; i < PQntuples(res); i++)
		fn(user, str_c(PQgetvalue(res, i, 0)), str_c(PQgetvalue(res, i, 1)),
		   *PQgetvalue(res, i, 2) == 't');
	PQclear(res);
	return 0;
}

int publication_drop(PGconn *sql, const char *name, struct err *err)
{
	struct strbuf q = { 0 };
	PGresult *res;

	strbuf_lit(&q, "DROP PUBLICATION ");
	put_identifier(&q, str_c(name));
	res = conn_query(sql, err, strbuf_cstr(&q), 0, NULL);
	PQclear(res);
	strbuf_release(&q);
	return res ? 0 : -1;
}
