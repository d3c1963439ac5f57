#include "pg/preflight.h"

#include <stdio.h>
#include <string.h>

/* The tables that the publication covers, or will cover when it is made for all tables. */
#define PUBLISHED                                                                                  \
	"WITH published AS (SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n "            \
	"ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relpersistence = 'p' "              \
	"AND n.nspname NOT IN ('pg_catalog', 'information_schema') "                               \
	"AND (NOT EXISTS (SELECT FROM pg_publication WHERE pubname = $2::text) OR EXISTS (SELECT " \
	"FROM "                                                                                    \
	"pg_publication_tables t WHERE t.pubname = $2::text AND t.schemaname = n.nspname "         \
	"AND t.tablename = c.relname))) "

#define NAMES "string_agg(format('%I.%I', nspname, relname), ', ' ORDER BY nspname, relname)"

/*
 * Each query gets the slot's name as $1 and the publication's as $2 and returns rows of level (ok,
 * info, warn, fail), text and mend. A query that returns no row found nothing to say.
 */
static const struct {
	const char *name;
	int least_version;
	const char *sql;
} checks[] = {
	{ "version", 0,
	  "SELECT CASE WHEN v >= 100000 THEN 'ok' ELSE 'fail' END, 'PostgreSQL ' || "
	  "current_setting('server_version') || CASE WHEN v >= 100000 THEN '' ELSE "
	  "' is too old: pgoutput needs 10 or later' END, '' "
	  "FROM (SELECT current_setting('server_version_num')::int) s(v)" },
	{ "wal_level", 0,
	  "SELECT CASE WHEN setting = 'logical' THEN 'ok' ELSE 'fail' END, 'wal_level is ' || "
	  "setting "
	  "|| CASE WHEN setting = 'logical' THEN '' ELSE ', it must be logical; PostgreSQL must be "
	  "restarted after the change' END, CASE WHEN setting = 'logical' THEN '' ELSE "
	  "'ALTER SYSTEM SET wal_level = ''logical''' END FROM pg_settings WHERE name = "
	  "'wal_level'" },
	{ "slots", 0,
	  "SELECT CASE WHEN used < most OR own THEN 'ok' ELSE 'fail' END, format('%s of %s "
	  "replication "
	  "slots are in use', used, most), CASE WHEN used < most OR own THEN '' ELSE "
	  "format('ALTER SYSTEM SET max_replication_slots = %s', most + 5) END "
	  "FROM (SELECT count(*), current_setting('max_replication_slots')::int, "
	  "coalesce(bool_or(slot_name = $1::text), false) FROM pg_replication_slots) s(used, most, "
	  "own)" },
	{ "senders", 0,
	  "SELECT CASE WHEN used < most THEN 'ok' ELSE 'fail' END, format('%s of %s WAL senders "
	  "are in "
	  "use', used, most), CASE WHEN used < most THEN '' ELSE "
	  "format('ALTER SYSTEM SET max_wal_senders = %s', most + 5) END "
	  "FROM (SELECT (SELECT count(*) FROM pg_stat_replication), "
	  "current_setting('max_wal_senders')::int) s(used, most)" },
	{ "role", 0,
	  "SELECT CASE WHEN ok THEN 'ok' ELSE 'fail' END, format(CASE WHEN ok THEN 'role %I may "
	  "replicate' ELSE 'role %I has no REPLICATION right' END, current_user), CASE WHEN ok "
	  "THEN '' "
	  "ELSE format('ALTER ROLE %I REPLICATION', current_user) END FROM (SELECT rolsuper OR "
	  "rolreplication OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN ('rds_replication', "
	  "'rds_superuser') AND pg_has_role(current_user, r.oid, 'member')) "
	  "FROM pg_roles WHERE rolname = current_user) s(ok)" },
	{ "publication", 0,
	  "SELECT CASE WHEN p.oid IS NOT NULL THEN 'ok' WHEN may THEN 'ok' ELSE 'fail' END, "
	  "CASE WHEN p.oid IS NULL AND may THEN format('publication %I does not exist; it will be "
	  "made "
	  "for all tables', $2::text) WHEN p.oid IS NULL THEN format('publication %I does not "
	  "exist, and "
	  "only a superuser may make one for all tables', $2::text) ELSE format('publication %I "
	  "covers %s%s', "
	  "$2::text, CASE WHEN puballtables THEN 'all tables' ELSE (SELECT count(*) FROM "
	  "pg_publication_tables WHERE pubname = $2::text) || ' tables' END, CASE WHEN pubinsert "
	  "AND "
	  "pubupdate AND pubdelete THEN '' ELSE ', not for all of insert, update and delete' END) "
	  "END, "
	  "CASE WHEN p.oid IS NULL AND NOT may THEN format('CREATE PUBLICATION %I FOR ALL TABLES', "
	  "$2::text) "
	  "ELSE '' END FROM (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) s(may) "
	  "LEFT JOIN pg_publication p ON p.pubname = $2::text" },
	{ "slot", 0,
	  "SELECT CASE WHEN s.slot_name IS NULL THEN 'ok' WHEN s.plugin IS DISTINCT FROM "
	  "'pgoutput' OR "
	  "s.database <> current_database() THEN 'fail' WHEN s.active THEN 'warn' ELSE 'ok' END, "
	  "CASE WHEN s.slot_name IS NULL THEN format('slot %s does not exist; it will be made', "
	  "$1::text) "
	  "WHEN s.plugin IS DISTINCT FROM 'pgoutput' THEN format('slot %s is for %s, not for "
	  "pgoutput', "
	  "$1::text, coalesce(s.plugin, 'physical replication')) WHEN s.database <> "
	  "current_database() "
	  "THEN format('slot %s belongs to database %s', $1::text, s.database) WHEN s.active THEN "
	  "format('slot %s is in use by pid %s', $1::text, s.active_pid) ELSE format('slot %s "
	  "stands at %s, "
	  "%s behind', $1::text, s.confirmed_flush_lsn, pg_size_pretty(pg_wal_lsn_diff(CASE WHEN "
	  "pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, "
	  "s.confirmed_flush_lsn))) END, '' "
	  "FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1::text" },
	{ "slot_lost", 130000,
	  "SELECT 'fail', format('slot %s is lost: the WAL it needs has been removed', $1::text), "
	  "format('SELECT pg_drop_replication_slot(%L)', $1::text) FROM pg_replication_slots "
	  "WHERE slot_name = $1::text AND wal_status = 'lost'" },
	{ "wal_keep", 130000,
	  "SELECT CASE WHEN setting::bigint = -1 THEN 'info' WHEN setting::bigint < 1024 THEN "
	  "'warn' "
	  "ELSE 'ok' END, CASE WHEN setting::bigint = -1 THEN 'max_slot_wal_keep_size is "
	  "unlimited: "
	  "while nobody reads the slot, WAL grows until the disk is full' WHEN setting::bigint < "
	  "1024 "
	  "THEN format('max_slot_wal_keep_size is %s MB: a slot that is further behind is lost', "
	  "setting) ELSE format('max_slot_wal_keep_size is %s MB', setting) END, CASE WHEN "
	  "setting::bigint = -1 OR setting::bigint < 1024 THEN 'ALTER SYSTEM SET "
	  "max_slot_wal_keep_size = ''50GB''' ELSE '' END FROM pg_settings "
	  "WHERE name = 'max_slot_wal_keep_size' AND setting::bigint <> 0" },
	{ "standby", 0,
	  "SELECT CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'info' ELSE "
	  "'fail' "
	  "END, 'this is a standby: ' || CASE WHEN current_setting('server_version_num')::int >= "
	  "160000 "
	  "THEN 'making a slot waits until the primary runs pg_log_standby_snapshot()' ELSE "
	  "'decoding "
	  "needs the primary before PostgreSQL 16' END, CASE WHEN "
	  "current_setting('server_version_num')::int >= 160000 THEN 'SELECT "
	  "pg_log_standby_snapshot()' "
	  "ELSE '' END WHERE pg_is_in_recovery()" },
	{ "identity", 0,
	  PUBLISHED "SELECT 'warn', count(*) || ' published tables have no replica identity, so "
		    "UPDATE and DELETE "
		    "fail there: ' || " NAMES
		    ", string_agg(format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', "
		    "nspname, relname), '; ' ORDER BY nspname, relname) FROM published p WHERE "
		    "(relreplident = 'n' "
		    "OR relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid "
		    "= p.oid AND "
		    "i.indisprimary)) HAVING count(*) > 0" },
	{ "old_values", 0,
	  PUBLISHED
	  "SELECT 'info', format('%s of %s published tables are without REPLICA IDENTITY FULL: "
	  "their "
	  "events show no old values but the key', count(*) FILTER (WHERE relreplident <> 'f'), "
	  "count(*)), '' FROM published HAVING count(*) FILTER (WHERE relreplident <> 'f') > 0" },
	{ "toast", 0,
	  PUBLISHED
	  "SELECT 'info', format('%s columns of these tables may hold large values; an update that "
	  "leaves one as it was lists it in \"unchanged\" instead of sending it', count(*)), '' "
	  "FROM published p JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum > 0 "
	  "AND NOT a.attisdropped AND a.attstorage IN ('x', 'e') WHERE relreplident <> 'f' "
	  "HAVING count(*) > 0" },
	{ "unlogged", 0,
	  "SELECT 'info', count(*) || ' unlogged tables have no events: ' || " NAMES ", "
	  "string_agg(format('ALTER TABLE %I.%I SET LOGGED', nspname, relname), '; ') "
	  "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind = 'r' AND "
	  "relpersistence = 'u' HAVING count(*) > 0" },
};

static enum preflight_level level_of(const char *name)
{
	static const char *const names[] = { "ok", "info", "warn", "fail" };
	enum preflight_level level = PREFLIGHT_OK;

	while (level < PREFLIGHT_FAIL && strcmp(names[level], name) != 0)
		level++;
	return level;
}

static void report(const char *check, PGresult *res, int row,
		   void (*fn)(void *user, const struct preflight_finding *f), void *user)
{
	struct preflight_finding f = { check, level_of(PQgetvalue(res, row, 0)),
				       PQgetvalue(res, row, 1), PQgetvalue(res, row, 2) };

	fn(user, &f);
}

/* pg_hba.conf is best asked by really connecting. */
static void check_connection(const char *conninfo,
			     void (*fn)(void *user, const struct preflight_finding *f), void *user)
{
	struct err err = { 0 };
	PGconn *repl = conn_open(conninfo, CONN_REPLICATION, &err);
	struct preflight_finding f = { "connection", repl ? PREFLIGHT_OK : PREFLIGHT_FAIL,
				       repl ? "a replication connection can be opened" : err.msg,
				       "" };

	fn(user, &f);
	PQfinish(repl);
}

int preflight_run(const char *conninfo, const char *slot, const char *publication,
		  void (*fn)(void *user, const struct preflight_finding *f), void *user,
		  struct err *err)
{
	const char *params[] = { slot, publication };
	PGconn *sql = conn_open(conninfo, CONN_SQL, err);
	int failed = sql ? 0 : -1;

	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]) && !failed; i++) {
		char query[4000];
		PGresult *res;

		if (PQserverVersion(sql) < checks[i].least_version)
			continue;
		/* the condition is there to use both parameters */
		snprintf(query, sizeof(query),
			 "SELECT * FROM (%s) q WHERE $1::text || $2::text <> ''", checks[i].sql);
		res = conn_query(sql, err, query, 2, params);
		for (int row = 0; res && row < PQntuples(res); row++)
			report(checks[i].name, res, row, fn, user);
		failed = res ? 0 : err_add(err, "check %s", checks[i].name);
		PQclear(res);
	}
	if (!failed)
		check_connection(conninfo, fn, user);
	PQfinish(sql);
	return failed;
}
