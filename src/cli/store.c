/* pgherald store: makes the event store, looks at it. */
#include "base/json.h"
#include "cli/cli.h"
#include "store/migrations.h"
#include "store/postgres.h"

#include <stdio.h>

/* What must hold, whether it does, and the SQL or words that mend it. $1 is the last migration. */
/* clang-format off */
static const char check_query[] =
	"WITH marks AS (SELECT min(a.xact_start) AS since, min(a.pid) AS pid,"
	"  bool_or(l.pid IS NULL) AS prepared FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)"
	"  WHERE l.locktype = 'advisory' AND l.objsubid = 1"
	"  AND l.classid::bigint >> 16 = herald.mark_tag()"
	"  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
	" SELECT 'the schema is up to date', (SELECT max(number) FROM herald.migration) >= $1::int,"
	"  'run pgherald store init'"
	" UNION ALL SELECT 'events get their positions in every session',"
	"  (SELECT count(*) = 2 FROM pg_trigger WHERE tgrelid = 'herald.stream'::regclass"
	"   AND tgname IN ('publish_new', 'publish_next') AND tgenabled = 'A'),"
	"  'ALTER TABLE herald.stream ENABLE ALWAYS TRIGGER publish_new;"
	" ALTER TABLE herald.stream ENABLE ALWAYS TRIGGER publish_next'"
	" UNION ALL SELECT 'positions are handed out one by one',"
	"  (SELECT seqcache = 1 AND seqincrement = 1 FROM pg_sequence"
	"   WHERE seqrelid = 'herald.feed_position'::regclass),"
	"  'ALTER SEQUENCE herald.feed_position CACHE 1 INCREMENT 1'"
	" UNION ALL SELECT 'the sequence is not behind the feed',"
	"  coalesce(pg_sequence_last_value('herald.feed_position'), 0)"
	"   >= coalesce((SELECT max(position) FROM herald.feed), 0),"
	"  'SELECT setval(''herald.feed_position'', (SELECT max(position) FROM herald.feed))'"
	" UNION ALL SELECT 'the roles herald_writer and herald_reader are there',"
	"  to_regrole('herald_writer') IS NOT NULL AND to_regrole('herald_reader') IS NOT NULL,"
	"  'let a role with CREATEROLE make them and run pgherald store init, or grant by hand'"
	" UNION ALL SELECT 'no prepared transaction holds up readers', NOT coalesce(prepared, false),"
	"  'see pg_prepared_xacts; COMMIT PREPARED or ROLLBACK PREPARED' FROM marks"
	" UNION ALL SELECT 'no transaction has held up readers for a minute',"
	"  coalesce(since > now() - interval '1 minute', true),"
	"  format('end it, or SELECT pg_terminate_backend(%s)', pid) FROM marks";

static const char stats_query[] =
	"SELECT 'version' AS name, (SELECT max(number) FROM herald.migration)::text AS value"
	" UNION ALL SELECT 'streams', count(*)::text FROM herald.stream"
	" UNION ALL SELECT 'events', count(*)::text FROM herald.feed"
	" UNION ALL SELECT 'last_position', coalesce(max(position), 0)::text FROM herald.feed"
	" UNION ALL SELECT 'horizon', herald.horizon()::text"
	" UNION ALL SELECT 'in_flight', count(*)::text FROM pg_locks WHERE locktype = 'advisory'"
	"  AND objsubid = 1 AND classid::bigint >> 16 = herald.mark_tag()"
	"  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
	" UNION ALL SELECT 'bytes', sum(pg_total_relation_size(oid))::text FROM pg_class"
	"  WHERE relkind = 'r' AND relnamespace = 'herald'::regnamespace";
/* clang-format on */

static int init(PGconn *sql, struct store_place place, struct err *err)
{
	int applied;

	if (store_install(sql, place, &applied, err))
		return -1;
	if (applied)
		printf("The event store is in schema %s now, version %d.\n", place.schema,
		       migrations_last());
	else
		printf("The event store in schema %s is up to date, version %d.\n", place.schema,
		       migrations_last());
	return 0;
}

static void show_finding(PGresult *res, int row, bool json)
{
	bool good = *PQgetvalue(res, row, 1) == 't';
	const char *name = PQgetvalue(res, row, 0), *mend = PQgetvalue(res, row, 2);
	struct strbuf b = { 0 };

	if (!json) {
		printf("%s  %s\n", good ? "ok   " : "WRONG", name);
		if (!good)
			printf("       %s\n", mend);
		return;
	}
	strbuf_printf(&b, "%s{\"check\":", row ? ",\n " : "[");
	json_string(&b, str_c(name));
	strbuf_printf(&b, ",\"ok\":%s,\"mend\":", good ? "true" : "false");
	json_string(&b, str_c(mend));
	fwrite(b.p, 1, b.n, stdout);
	printf("}%s", row + 1 == PQntuples(res) ? "]\n" : "");
	strbuf_release(&b);
}

static int check(PGconn *sql, struct store_place place, bool json, struct err *err)
{
	char last[16];
	const char *params[] = { last };
	PGresult *res;
	int wrong = 0;

	snprintf(last, sizeof(last), "%d", migrations_last());
	res = store_query(sql, place, err, check_query, 1, params);
	for (int row = 0; res && row < PQntuples(res); row++) {
		show_finding(res, row, json);
		wrong += *PQgetvalue(res, row, 1) != 't';
	}
	PQclear(res);
	if (res && wrong)
		return err_set(err, ERR_FAIL, "%d of the checks failed", wrong);
	return res ? 0 : -1;
}

static int stats(PGconn *sql, struct store_place place, bool json, struct err *err)
{
	PGresult *res = store_query(sql, place, err, stats_query, 0, NULL);

	for (int row = 0; res && row < PQntuples(res); row++)
		printf(json ? "%s\"%s\":%s" : "%s%-14s %s\n",
		       !json ? ""
		       : row ? ","
			     : "{",
		       PQgetvalue(res, row, 0), PQgetvalue(res, row, 1));
	if (res && json)
		printf("}\n");
	PQclear(res);
	return res ? 0 : -1;
}

int store_run(const struct command *command, struct settings *s)
{
	struct store_place place = { s->schema, s->stream_id_type };
	struct err err = { 0 };
	PGconn *sql = NULL;
	int failed;

	if (!s->task)
		failed = err_set(&err, ERR_USAGE, "say what to do: init, check or stats");
	else if (migrations_check_schema(s->schema, &err) ||
		 !(sql = conn_open(s->connection, CONN_SQL, &err)))
		failed = -1;
	else if (strcmp(s->task, "init") == 0)
		failed = init(sql, place, &err);
	else if (strcmp(s->task, "check") == 0)
		failed = check(sql, place, s->json, &err);
	else
		failed = stats(sql, place, s->json, &err);
	if (failed)
		fprintf(stderr, "pgherald: %s\n", err.msg);
	PQfinish(sql);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
