/* pgherald status: slots and publications, how far behind they are, who is connected. */
#include "base/json.h"
#include "cli/cli.h"
#include "pg/conn.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

/* The types of columns that are no strings: pg_type's bool, int8, int4 and numeric. */
enum { TYPE_BOOL = 16, TYPE_INT8 = 20, TYPE_INT4 = 23, TYPE_NUMERIC = 1700 };

/*
 * Every column of an answer is a key of the JSON and a column for people, where sizes and times
 * have units, what is selected a star, and columns without any value are left out. $1 is the slot
 * or publication that was named.
 *
 * All slots of the server for pgoutput: each of them keeps WAL. What a version or the role's rights
 * do not show is null.
 */
/* clang-format off */
static const char slots_query[] =
	"SELECT s.slot_name = $1::text AS selected, s.slot_name AS slot, s.database,"
	"  CASE WHEN s.active THEN 'streaming' ELSE 'idle' END AS state,"
	"  greatest(pg_wal_lsn_diff(e.lsn, s.confirmed_flush_lsn), 0)::bigint AS behind_bytes,"
	"  round(extract(epoch FROM r.flush_lag)::numeric, 3) AS lag_seconds,"
	"  greatest(pg_wal_lsn_diff(e.lsn, s.restart_lsn), 0)::bigint AS kept_bytes,"
	"  (j ->> 'safe_wal_size')::bigint AS safe_bytes, j ->> 'wal_status' AS wal,"
	"  s.confirmed_flush_lsn::text AS confirmed, s.active_pid AS pid,"
	"  nullif(a.application_name, '') AS application,"
	"  coalesce(host(a.client_addr), CASE WHEN a.backend_start IS NOT NULL THEN 'local' END)"
	"    AS client,"
	"  round(extract(epoch FROM now() - (jr ->> 'reply_time')::timestamptz)::numeric, 3)"
	"    AS heard_seconds,"
	"  CASE WHEN NOT s.active THEN round(extract(epoch FROM now()"
	"    - (j ->> 'inactive_since')::timestamptz)::numeric) END AS idle_seconds"
	" FROM pg_replication_slots s CROSS JOIN to_jsonb(s) j"
	" CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery()"
	"   THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
	"   ELSE pg_current_wal_lsn() END) e(lsn)"
	" LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid"
	" LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid"
	" LEFT JOIN LATERAL to_jsonb(r) jr ON true"
	" WHERE s.plugin = 'pgoutput' ORDER BY s.slot_name";

static const char publications_query[] =
	"SELECT pubname = $1::text AS selected, pubname AS publication,"
	"  CASE WHEN puballtables THEN 'all' ELSE (SELECT count(*)::text"
	"    FROM pg_publication_tables t WHERE t.pubname = p.pubname) END AS tables,"
	"  (SELECT string_agg(substr(key, 4), ', ' ORDER BY key) FROM jsonb_each_text(to_jsonb(p))"
	"    WHERE value = 'true' AND key IN ('pubinsert', 'pubupdate', 'pubdelete', 'pubtruncate'))"
	"    AS actions,"
	"  CASE WHEN obj_description(oid, 'pg_publication') LIKE 'made by pgherald%' THEN 'pgherald' END"
	"    AS made_by"
	" FROM pg_publication p ORDER BY pubname";
/* clang-format on */

static void put_json_value(struct strbuf *b, PGresult *res, int row, int column)
{
	const char *value = PQgetvalue(res, row, column);
	Oid type = PQftype(res, column);

	if (PQgetisnull(res, row, column))
		strbuf_lit(b, "null");
	else if (type == TYPE_BOOL)
		strbuf_str(b, *value == 't' ? STR("true") : STR("false"));
	else if (type == TYPE_INT8 || type == TYPE_INT4 || type == TYPE_NUMERIC)
		strbuf_str(b, str_c(value));
	else
		json_string_checked(b, str_c(value));
}

static void show_json(const char *name, PGresult *res)
{
	struct strbuf b = { 0 };

	strbuf_printf(&b, "\"%s\":[", name);
	for (int row = 0; row < PQntuples(res); row++) {
		strbuf_str(&b, row ? STR(",{") : STR("{"));
		for (int i = 0; i < PQnfields(res); i++) {
			strbuf_printf(&b, "%s\"%s\":", i ? "," : "", PQfname(res, i));
			put_json_value(&b, res, row, i);
		}
		strbuf_ch(&b, '}');
	}
	strbuf_ch(&b, ']');
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
}

static bool ends_with(const char *name, const char *end)
{
	size_t n = strlen(name), n_end = strlen(end);

	return n > n_end && strcmp(name + n - n_end, end) == 0;
}

/* "1.5 GB": for people, so three digits are enough. */
static void print_bytes(char *out, size_t size, const char *value)
{
	static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB" };
	double n = strtod(value, NULL);
	size_t unit = 0;

	while (n >= 1024) {
		n /= 1024;
		unit++;
	}
	snprintf(out, size, "%.*f %s", unit && n < 100 ? 1 : 0, n, units[unit]);
}

/* A value as people see it. Lives until the next call. */
static const char *cell(PGresult *res, int row, int column)
{
	static char text[64];
	const char *name = PQfname(res, column), *value = PQgetvalue(res, row, column);

	if (PQgetisnull(res, row, column))
		return "-";
	if (ends_with(name, "_bytes"))
		print_bytes(text, sizeof(text), value);
	else if (ends_with(name, "_seconds"))
		snprintf(text, sizeof(text), "%s s", value);
	else if (PQftype(res, column) == TYPE_BOOL)
		return *value == 't' ? "*" : "";
	else
		return value;
	return text;
}

static bool has_values(PGresult *res, int column)
{
	for (int row = 0; row < PQntuples(res); row++)
		if (!PQgetisnull(res, row, column))
			return true;
	return false;
}

/* BEHIND for "behind_bytes": the unit is with the values. */
static void heading(char *out, size_t size, PGresult *res, int column)
{
	const char *name = PQfname(res, column);
	size_t n = 0;

	for (; name[n] && n + 1 < size && PQftype(res, column) != TYPE_BOOL; n++)
		out[n] = name[n] == '_' ? ' ' : (char)toupper((unsigned char)name[n]);
	out[n] = '\0';
	if (ends_with(name, "_bytes") || ends_with(name, "_seconds"))
		*strrchr(out, ' ') = '\0';
}

/* Width on the terminal: characters, where printf would count bytes. */
static int width(const char *text)
{
	int n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static int width_of_column(PGresult *res, int column, const char *head)
{
	int most = width(head);

	for (int row = 0; row < PQntuples(res); row++) {
		int n = width(cell(res, row, column));

		most = n > most ? n : most;
	}
	return most;
}

static void show_table(PGresult *res, const char *none)
{
	int widths[32] = { 0 };
	char head[32];

	if (PQntuples(res) == 0)
		printf("%s\n", none);
	for (int row = -1; row < PQntuples(res) && PQntuples(res); row++) {
		int gap = 0; /* no spaces at the end of a line */

		for (int i = 0; i < PQnfields(res); i++) {
			const char *text;

			if (!has_values(res, i))
				continue;
			heading(head, sizeof(head), res, i);
			if (row < 0)
				widths[i] = width_of_column(res, i, head);
			text = row < 0 ? head : cell(res, row, i);
			printf("%*s%s", gap, "", text);
			gap = widths[i] - width(text) + 2;
		}
		printf("\n");
	}
}

static PGresult *ask(PGconn *sql, const char *query, const char *name, struct err *err)
{
	return conn_query(sql, err, query, 1, &name);
}

int status_run(const struct command *command, struct settings *s)
{
	struct err err = { 0 };
	PGconn *sql = conn_open(s->connection, CONN_SQL, &err);
	PGresult *slots = sql ? ask(sql, slots_query, s->slot, &err) : NULL;
	PGresult *publications = slots ? ask(sql, publications_query, s->publication, &err) : NULL;

	if (!publications) {
		fprintf(stderr, "pgherald: %s\n", err.msg);
	} else if (s->json) {
		printf("{");
		show_json("slots", slots);
		printf(",\n ");
		show_json("publications", publications);
		printf("}\n");
	} else {
		show_table(slots, "There is no slot for pgoutput.");
		printf("\n");
		show_table(publications, "There is no publication in this database.");
	}
	PQclear(slots);
	PQclear(publications);
	PQfinish(sql);
	cli_free(s);
	return publications ? 0 : err_exit_code(err.kind);
}
