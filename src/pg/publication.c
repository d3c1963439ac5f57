#include "pg/publication.h"

#include "base/strbuf.h"

#include <stdlib.h>

#define MARK "made by pgherald"

int publication_read(PGconn *sql, const char *name, struct publication_state *p, struct err *err)
{
	const char *params[] = { name };
	PGresult *res = conn_query(sql, err,
				   "SELECT obj_description(oid, 'pg_publication') LIKE '" MARK "%' "
				   "FROM pg_publication WHERE pubname = $1",
				   1, params);

	if (!res)
		return -1;
	p->exists = PQntuples(res) == 1;
	p->ours = p->exists && *PQgetvalue(res, 0, 0) == 't';
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
			 const struct publication_table *tables, size_t ntables, const char *actions)
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
	strbuf_printf(q, " WITH (publish = '%s'%s)", actions,
		      version >= 180000 ? ", publish_generated_columns = stored" : "");
}

int publication_create(PGconn *sql, const char *name, const struct publication_table *tables,
		       size_t ntables, const char *actions, struct err *err)
{
	struct publication_state now = { 0 };
	struct strbuf q = { 0 };
	PGresult *res;
	int failed = 0;

	build_create(&q, PQserverVersion(sql), name, tables, ntables, actions);
	strbuf_lit(&q, "; COMMENT ON PUBLICATION ");
	put_identifier(&q, str_c(name));
	strbuf_lit(&q, " IS '" MARK "'");
	res = conn_query(sql, err, strbuf_cstr(&q), 0, NULL);
	PQclear(res);
	if (!res && (publication_read(sql, name, &now, &(struct err){ 0 }) || !now.exists)) {
		q.n = 0;
		build_create(&q, PQserverVersion(sql), name, tables, ntables, actions);
		failed = err_add(err, "cannot create publication \"%s\"; let its owner run: %s",
				 name, strbuf_cstr(&q));
	}
	strbuf_release(&q);
	return failed;
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
