/* pgherald status: slots and publications, how far behind they are, who is connected. */
#include "base/json.h"
#include "cli/cli.h"
#include "pg/conn.h"

#include <stdio.h>
#include <stdlib.h>

/* Every column of the answer is a column of the table and a key of the JSON. */
static PGresult *read_slots(PGconn *sql, struct err *err)
{
	char query[1400];
	int version = PQserverVersion(sql);

	snprintf(query, sizeof(query),
		 "SELECT s.slot_name AS slot, s.database, CASE WHEN s.active THEN 'streaming' ELSE "
		 "'idle' END AS state, %s AS wal, "
		 "pg_wal_lsn_diff(e.lsn, s.confirmed_flush_lsn)::bigint AS behind_bytes, "
		 "pg_wal_lsn_diff(e.lsn, s.restart_lsn)::bigint AS wal_kept_bytes, "
		 "round(extract(epoch FROM r.replay_lag)::numeric, 3) AS lag_seconds, "
		 "s.active_pid AS pid, coalesce(a.application_name, '') AS application, "
		 "coalesce(host(a.client_addr), CASE WHEN a.pid IS NOT NULL THEN 'local' END) AS "
		 "client "
		 "FROM pg_replication_slots s "
		 "CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() "
		 "ELSE pg_current_wal_lsn() END) e(lsn) "
		 "LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid "
		 "LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid "
		 "WHERE s.plugin = 'pgoutput' AND s.database = current_database() ORDER BY 1",
		 version >= 130000 ? "s.wal_status" : "''");
	return conn_query(sql, err, query, 0, NULL);
}

static PGresult *read_publications(PGconn *sql, struct err *err)
{
	return conn_query(
		sql, err,
		"SELECT pubname AS publication, CASE WHEN puballtables THEN 'all' ELSE "
		"(SELECT count(*)::text FROM pg_publication_tables t WHERE t.pubname = p.pubname) "
		"END AS tables, concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, "
		"CASE WHEN pubupdate THEN 'update' END, CASE WHEN pubdelete THEN 'delete' END) "
		"AS actions, CASE WHEN obj_description(oid, 'pg_publication') LIKE "
		"'made by pgherald%' THEN 'pgherald' ELSE '' END AS made_by "
		"FROM pg_publication p ORDER BY 1",
		0, NULL);
}

static bool is_number_column(PGresult *res, int column)
{
	Oid type = PQftype(res, column);

	return type == 20 || type == 23 || type == 1700;
}

static void show_json(const char *name, PGresult *res)
{
	struct strbuf b = { 0 };

	strbuf_printf(&b, "\"%s\":[", name);
	for (int row = 0; row < PQntuples(res); row++) {
		strbuf_str(&b, row ? STR(",{") : STR("{"));
		for (int i = 0; i < PQnfields(res); i++) {
			const char *value = PQgetvalue(res, row, i);

			strbuf_printf(&b, "%s\"%s\":", i ? "," : "", PQfname(res, i));
			if (PQgetisnull(res, row, i))
				strbuf_lit(&b, "null");
			else if (is_number_column(res, i))
				strbuf_str(&b, str_c(value));
			else
				json_string_checked(&b, str_c(value));
		}
		strbuf_ch(&b, '}');
	}
	strbuf_ch(&b, ']');
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
}

static void show_table(PGresult *res, const char *none)
{
	PQprintOpt options = { .header = 1, .align = 1, .fieldSep = (char[]){ " " } };

	if (PQntuples(res) == 0)
		printf("%s\n", none);
	else
		PQprint(stdout, res, &options);
}

int status_run(const struct command *command, struct settings *s)
{
	struct err err = { 0 };
	PGconn *sql = conn_open(s->connection, CONN_SQL, &err);
	PGresult *slots = sql ? read_slots(sql, &err) : NULL;
	PGresult *publications = slots ? read_publications(sql, &err) : NULL;

	if (!publications) {
		fprintf(stderr, "pgherald: %s\n", err.msg);
	} else if (s->json) {
		printf("{");
		show_json("slots", slots);
		printf(",");
		show_json("publications", publications);
		printf("}\n");
	} else {
		show_table(slots, "This database has no slot for pgoutput.");
		show_table(publications, "This database has no publication.");
	}
	PQclear(slots);
	PQclear(publications);
	PQfinish(sql);
	cli_free(s);
	return publications ? 0 : err_exit_code(err.kind);
}
