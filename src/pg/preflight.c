#include "pg/preflight.h"

#include <stdio.h>
#include <string.h>

/* The tables that are published, or will be when the publication is made for all: leaves of
 * partitioned tables instead of these, because theirs is the replica identity that counts. */
#define PUBLISHED                                                                                  \
	"WITH RECURSIVE top AS ("                                                                  \
	"  SELECT c.oid FROM pg_publication_tables t"                                              \
	"  JOIN pg_namespace n ON n.nspname = t.schemaname"                                        \
	"  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename"                  \
	"  WHERE t.pubname = $2::text"                                                             \
	"  UNION SELECT i.inhrelid FROM top JOIN pg_inherits i ON i.inhparent = top.oid"           \
	"  JOIN pg_class c ON c.oid = top.oid AND c.relkind = 'p'"                                 \
	"), publication AS ("                                                                      \
	"  SELECT pubupdate OR pubdelete AS needs_identity, puballtables AS all_tables"            \
	"  FROM pg_publication WHERE pubname = $2::text"                                           \
	"  UNION ALL SELECT true, true"                                                            \
	"  WHERE NOT EXISTS (SELECT FROM pg_publication WHERE pubname = $2::text)"                 \
	"), published AS ("                                                                        \
	"  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name, needs_identity"              \
	"  FROM publication, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"             \
	"  WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384"                    \
	"  AND (all_tables OR c.oid IN (SELECT oid FROM top))"                                     \
	") "

/* The first few of many names. */
#define NAMES                                                                                      \
	"array_to_string((array_agg(name ORDER BY name))[1:5], ', ')"                              \
	" || CASE WHEN count(*) > 5 THEN ' ...' ELSE '' END"

#define EACH(sql) "string_agg(format('" sql ";', name), chr(10) ORDER BY name)"

#define SET(name, value)                                                                           \
	"'ALTER SYSTEM SET " name " = ''" value "'';' || chr(10) || 'SELECT pg_reload_conf();'"

/*
 * A query gets the slot's name as $1 and the publication's as $2 and returns rows of level (ok,
 * info, warn, fail), text and mend: statements, each on lines of its own and ended by a semicolon.
 * No row: there is nothing to say. Columns and settings that a version may lack are read through
 * to_jsonb and pg_settings.
 */
/* clang-format off */
static const struct {
	const char *name;
	const char *sql; /* NULL: opens a replication connection */
} checks[] = {
	/* The first: with an older server there is no other. */
	{ "version",
	"SELECT CASE WHEN v >= 100000 THEN 'ok' ELSE 'fail' END,"
	"  'PostgreSQL ' || current_setting('server_version') ||"
	"  CASE WHEN v >= 100000 THEN '' ELSE ' is too old: pgoutput came with 10' END, ''"
	" FROM (SELECT current_setting('server_version_num')::int) s(v)" },

	{ "connection", NULL },

	{ "role",
	"SELECT CASE WHEN ok THEN 'ok' ELSE 'fail' END,"
	"  format(CASE WHEN ok THEN 'role %I may replicate'"
	"    ELSE 'role %I has no REPLICATION right' END, session_user),"
	"  CASE WHEN ok THEN '' WHEN rds THEN format('GRANT rds_replication TO %I;', session_user)"
	"    ELSE format('ALTER ROLE %I REPLICATION;', session_user) END"
	" FROM (SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles r"
	"      WHERE rolname IN ('rds_replication', 'rds_superuser')"
	"      AND pg_has_role(session_user, r.oid, 'member')),"
	"    EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication')"
	"    FROM pg_roles WHERE rolname = session_user) s(ok, rds)" },

	{ "wal_level",
	"SELECT CASE WHEN ok THEN 'ok' ELSE 'fail' END, 'wal_level is ' || level ||"
	"  CASE WHEN ok THEN ''"
	"    WHEN rds THEN ', it must be logical: set rds.logical_replication to 1 and reboot'"
	"    ELSE ', it must be logical; restart PostgreSQL after the change' END,"
	"  CASE WHEN ok OR rds THEN '' ELSE 'ALTER SYSTEM SET wal_level = ''logical'';' END"
	" FROM (SELECT level, level = 'logical' OR level = 'replica' AND"
	"      current_setting('server_version_num')::int >= 190000," /* rises by itself */
	"    EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_superuser')"
	"    FROM current_setting('wal_level') level) s(level, ok, rds)" },

	{ "slots",
	"SELECT CASE WHEN ok THEN 'ok' ELSE 'fail' END,"
	"  format('%s of %s replication slots are in use', used, most) ||"
	"  CASE WHEN ok THEN '' ELSE '; restart PostgreSQL after the change' ||"
	"    coalesce(', or drop a slot that nobody reads: ' || idle, '') END,"
	"  CASE WHEN ok THEN '' ELSE"
	"    format('ALTER SYSTEM SET max_replication_slots = %s;', most + 5) END"
	" FROM (SELECT used, most, idle, own OR used < most FROM (SELECT count(*),"
	"      current_setting('max_replication_slots')::int,"
	"      string_agg(slot_name, ', ' ORDER BY slot_name) FILTER (WHERE NOT active),"
	"      coalesce(bool_or(slot_name = $1::text), false)"
	"    FROM pg_replication_slots) s(used, most, idle, own)) s(used, most, idle, ok)" },

	{ "senders",
	"SELECT CASE WHEN used < most THEN 'ok' ELSE 'fail' END,"
	"  format('%s of %s WAL senders are in use', used, most) ||"
	"  CASE WHEN used < most THEN '' ELSE '; restart PostgreSQL after the change' END,"
	"  CASE WHEN used < most THEN '' ELSE"
	"    format('ALTER SYSTEM SET max_wal_senders = %s;', most + 5) END"
	" FROM (SELECT (SELECT count(*) FROM pg_stat_replication),"
	"    current_setting('max_wal_senders')::int) s(used, most)" },

	{ "standby",
	"SELECT CASE WHEN v < 160000 THEN 'fail' WHEN feedback THEN 'info' ELSE 'warn' END,"
	"  'this is a standby' || CASE WHEN v < 160000 THEN ': before PostgreSQL 16 streaming needs "
		"the primary' ELSE ': making a slot waits until the primary runs SELECT "
		"pg_log_standby_snapshot()' ||"
	"    CASE WHEN feedback THEN '' ELSE '; without hot_standby_feedback the primary may remove "
		"rows that a slot needs, which is then lost' END END,"
	"  CASE WHEN v < 160000 OR feedback THEN '' ELSE " SET("hot_standby_feedback", "on") " END"
	" FROM (SELECT current_setting('server_version_num')::int,"
	"    current_setting('hot_standby_feedback')::bool) s(v, feedback)"
	" WHERE pg_is_in_recovery()" },

	{ "publication",
	"SELECT CASE WHEN exists AND n = 0 AND NOT all_tables THEN 'warn'"
	"    WHEN exists OR may THEN 'ok' ELSE 'fail' END,"
	"  format('publication %I ', $2::text) ||"
	"  CASE WHEN exists THEN format('covers %s: %s', CASE WHEN all_tables THEN 'all tables' "
		"WHEN n = 1 THEN '1 table' ELSE n || ' tables' END, actions)"
	"    WHEN may THEN 'does not exist; it will be made'"
	"    WHEN pg_is_in_recovery() THEN 'does not exist, and can be made on the primary only'"
	"    ELSE 'does not exist, and only a superuser may make one for all tables' END,"
	"  CASE WHEN exists OR may THEN ''"
	"    ELSE format('CREATE PUBLICATION %I FOR ALL TABLES;', $2::text) END"
	" FROM (SELECT rolsuper AND NOT pg_is_in_recovery(), p.oid IS NOT NULL, p.puballtables,"
	"    (SELECT count(*) FROM pg_publication_tables WHERE pubname = $2::text),"
	"    (SELECT string_agg(substr(key, 4), ', ' ORDER BY key)"
	"      FROM jsonb_each_text(to_jsonb(p)) WHERE value = 'true'"
	"      AND key IN ('pubinsert', 'pubupdate', 'pubdelete', 'pubtruncate'))"
	"    FROM pg_roles r LEFT JOIN pg_publication p ON p.pubname = $2::text"
	"    WHERE r.rolname = current_user) s(may, exists, all_tables, n, actions)" },

	/* Decoding sees the catalog as it was at that point of the WAL. */
	{ "publication",
	"SELECT 'warn', format('publication %I was made or altered behind the point where slot %s "
		"stands: if it was made there, streaming stops at the first change before it, and only "
		"--from now goes on (what is before is given up)', $2::text, $1::text), ''"
	" FROM pg_publication p, pg_replication_slots s WHERE p.pubname = $2::text"
	"  AND s.slot_name = $1::text AND age(p.xmin) BETWEEN 0 AND age(s.catalog_xmin)" },

	{ "slot",
	"SELECT CASE WHEN NOT exists THEN 'ok' WHEN plugin <> 'pgoutput' OR other OR lost OR synced"
	"    OR prepares THEN 'fail' WHEN active OR wal = 'unreserved' THEN 'warn' ELSE 'ok' END,"
	"  format('slot %s ', $1::text) || CASE WHEN NOT exists THEN 'does not exist; it will be made'"
	"    WHEN plugin = '' THEN 'is a physical one; name another one with --slot'"
	"    WHEN plugin <> 'pgoutput' THEN 'is for ' || plugin || ', not for pgoutput; name another "
		"one with --slot'"
	"    WHEN other THEN 'belongs to database ' || database || '; name another one with --slot'"
	"    WHEN prepares THEN 'was made with two_phase: it sends transactions before they are "
		"committed; name another one with --slot'"
	"    WHEN lost THEN 'is lost (' || reason || '): the WAL it needs has been removed, and "
		"streaming has to start anew'"
	"    WHEN synced THEN 'is synchronized from the primary and can be used when this standby is "
		"promoted'"
	"    WHEN active THEN format('is in use by pid %s; another process waits as a standby', pid)"
	"    ELSE format('stands at %s, %s behind', lsn, pg_size_pretty(behind)) || CASE WHEN "
		"wal = 'unreserved' THEN ', further than max_slot_wal_keep_size: it is about to be lost' "
		"ELSE '' END END,"
	"  CASE WHEN lost AND NOT other THEN format('SELECT pg_drop_replication_slot(%L);', $1::text)"
	"    ELSE '' END"
	" FROM (SELECT s.slot_name IS NOT NULL, coalesce(s.plugin, ''),"
	"    s.database IS DISTINCT FROM current_database(), s.database, s.active, s.active_pid,"
	"    s.confirmed_flush_lsn, j ->> 'wal_status', coalesce(j ->> 'wal_status' = 'lost', false),"
	"    coalesce(j ->> 'invalidation_reason', 'lost'),"
	"    pg_is_in_recovery() AND coalesce(j ->> 'synced' = 'true', false),"
	"    coalesce(j ->> 'two_phase' = 'true', false)"
	"      AND current_setting('server_version_num')::int >= 150000,"
	"    pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
	"      ELSE pg_current_wal_lsn() END, s.confirmed_flush_lsn)"
	"    FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1::text"
	"    LEFT JOIN LATERAL to_jsonb(s) j ON true) s(exists, plugin, other, database, active, pid,"
	"    lsn, wal, lost, reason, synced, prepares, behind)" },

	{ "transactions",
	"SELECT 'warn', 'making the slot waits for transactions that are open now: ' ||"
	"    string_agg(who, ', ' ORDER BY who), string_agg(mend, chr(10) ORDER BY who)"
	" FROM (SELECT format('pid %s (%s)', pid, coalesce(nullif(application_name, ''), usename)),"
	"      format('SELECT pg_terminate_backend(%s);', pid) FROM pg_stat_activity"
	"    WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
	"    AND (state LIKE 'idle in transaction%' OR xact_start < now() - interval '10 s')"
	"  UNION ALL SELECT format('prepared transaction %L', gid),"
	"      format('ROLLBACK PREPARED %L; -- in database %I', gid, database)"
	"    FROM pg_prepared_xacts) s(who, mend)"
	" WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text)"
	" HAVING count(*) > 0" },

	{ "wal_keep",
	"SELECT CASE WHEN mb = -1 THEN 'info' WHEN mb < 1024 THEN 'warn' ELSE 'ok' END,"
	"  'max_slot_wal_keep_size is ' || CASE WHEN mb = -1 THEN 'unlimited: while nobody reads the "
		"slot, WAL grows until the disk is full' ELSE mb || ' MB' || CASE WHEN mb < 1024 THEN "
		"': a slot that is further behind is lost' ELSE '' END END,"
	"  CASE WHEN mb < 1024 THEN " SET("max_slot_wal_keep_size", "50GB") " ELSE '' END"
	" FROM (SELECT setting::bigint FROM pg_settings"
	"    WHERE name = 'max_slot_wal_keep_size') s(mb)" },

	{ "slot_timeout",
	"SELECT 'warn', format('idle_replication_slot_timeout is %s: a slot that nobody reads for so "
		"long is lost', current_setting(name)), " SET("idle_replication_slot_timeout", "0")
	" FROM pg_settings WHERE name = 'idle_replication_slot_timeout' AND setting <> '0'" },

	{ "timeout",
	"SELECT CASE WHEN ms BETWEEN 1 AND 4999 THEN 'warn' WHEN ms = 0 THEN 'info' ELSE 'ok' END,"
	"  'wal_sender_timeout is ' || CASE WHEN ms = 0 THEN 'off: a connection that breaks unnoticed "
		"keeps the slot in use for a long time' ELSE current_setting('wal_sender_timeout') END ||"
	"  CASE WHEN ms BETWEEN 1 AND 4999 THEN ': a short pause of the network ends the connection'"
	"    ELSE '' END,"
	"  CASE WHEN ms < 5000 THEN " SET("wal_sender_timeout", "60s") " ELSE '' END"
	" FROM (SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout') s(ms)" },

	{ "identity",
	PUBLISHED
	"SELECT 'warn', format('published tables without replica identity, where every UPDATE and "
		"DELETE fails (%s): ', count(*)) || " NAMES ","
	"  " EACH("ALTER TABLE %s REPLICA IDENTITY FULL")
	" FROM published p WHERE needs_identity AND relreplident <> 'f' AND NOT EXISTS ("
	"    SELECT FROM pg_index i WHERE i.indrelid = p.oid AND i.indisvalid AND i.indimmediate"
	"    AND (relreplident = 'd' AND indisprimary OR relreplident = 'i' AND indisreplident))"
	" HAVING count(*) > 0" },

	{ "generated",
	PUBLISHED
	"SELECT 'warn', format('published tables with REPLICA IDENTITY FULL and generated columns that "
		"are not published, where every UPDATE and DELETE fails (%s): ', count(*)) || " NAMES ","
	"  CASE WHEN bool_or(virtual) THEN " EACH("ALTER TABLE %s REPLICA IDENTITY DEFAULT")
	"    ELSE format('ALTER PUBLICATION %I SET (publish_generated_columns = stored);', $2::text) END"
	" FROM (SELECT name, bool_or(to_jsonb(a) ->> 'attgenerated' = 'v') FROM published p"
	"    JOIN pg_attribute a ON a.attrelid = p.oid AND NOT a.attisdropped"
	"    LEFT JOIN pg_publication pub ON pub.pubname = $2::text"
	"    WHERE current_setting('server_version_num')::int >= 180000"
	"    AND needs_identity AND relreplident = 'f' AND (to_jsonb(a) ->> 'attgenerated' = 'v'"
	"    OR to_jsonb(a) ->> 'attgenerated' = 's' AND to_jsonb(pub) ->> 'pubgencols' <> 's')"
	"    GROUP BY name) s(name, virtual) HAVING count(*) > 0" },

	{ "old_values",
	PUBLISHED
	"SELECT 'info', format('published tables without REPLICA IDENTITY FULL, whose updates and "
		"deletes show no old values but the key: %s of %s', n, most), ''"
	" FROM (SELECT count(*) FILTER (WHERE relreplident <> 'f'), count(*) FROM published) s(n, most)"
	" WHERE n > 0" },

	{ "toast",
	PUBLISHED
	"SELECT 'info', format('columns of these that may hold large values, which an update that leaves "
		"them as they were does not send but names in \"unchanged\": %s', count(*)), ''"
	" FROM published p JOIN pg_attribute a ON a.attrelid = p.oid"
	" WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attstorage IN ('x', 'e')"
	"  AND relreplident <> 'f' HAVING count(*) > 0" },

	{ "unlogged",
	PUBLISHED
	"SELECT 'info', format('unlogged tables, which have no events (%s): ', count(*)) || " NAMES ","
	"  " EACH("ALTER TABLE %s SET LOGGED")
	" FROM (SELECT format('%I.%I', nspname, relname) FROM publication, pg_class c"
	"    JOIN pg_namespace n ON n.oid = relnamespace"
	"    WHERE relkind = 'r' AND relpersistence = 'u' AND all_tables) s(name)"
	" HAVING count(*) > 0" },

	{ "row_security",
	PUBLISHED
	"SELECT 'info', format('published tables with row-level security, which does not hold for "
		"events (%s): ', count(*)) || " NAMES ", ''"
	" FROM published WHERE relrowsecurity HAVING count(*) > 0" },
};
/* clang-format on */

static enum preflight_level level_of(const char *name)
{
	static const char *const names[] = { "ok", "info", "warn", "fail" };
	enum preflight_level level = PREFLIGHT_OK;

	while (level < PREFLIGHT_FAIL && strcmp(names[level], name) != 0)
		level++;
	return level;
}

static void report(const struct preflight_callback *cb, const char *check,
		   enum preflight_level level, const char *text, const char *mend)
{
	struct preflight_finding f = { check, level, text, mend };

	cb->finding(cb->user, &f);
}

/* pg_hba.conf, poolers and limits are best asked by really connecting. */
static void check_connection(const char *conninfo, const struct preflight_callback *cb)
{
	struct err err = { 0 };
	PGconn *repl = conn_open(conninfo, CONN_REPLICATION, &err);

	report(cb, "connection", repl ? PREFLIGHT_OK : PREFLIGHT_FAIL,
	       repl ? "a replication connection can be opened" : err.msg, "");
	PQfinish(repl);
}

static int check_query(PGconn *sql, const char *name, const char *check, const char *const *params,
		       const struct preflight_callback *cb, struct err *err)
{
	char query[4000];
	PGresult *res;

	/* the condition is there to use both parameters */
	snprintf(query, sizeof(query), "SELECT * FROM (%s) q WHERE $1::text || $2::text <> ''",
		 check);
	res = conn_query(sql, err, query, 2, params);
	for (int row = 0; res && row < PQntuples(res); row++)
		report(cb, name, level_of(PQgetvalue(res, row, 0)), PQgetvalue(res, row, 1),
		       PQgetvalue(res, row, 2));
	PQclear(res);
	return res ? 0 : -1;
}

int preflight_run(const char *conninfo, const char *slot, const char *publication,
		  const struct preflight_callback *cb, struct err *err)
{
	const char *params[] = { slot, publication };
	PGconn *sql = conn_open(conninfo, CONN_SQL, err);
	size_t n = sizeof(checks) / sizeof(checks[0]);
	const char *name = "connection";
	int failed = sql ? 0 : -1;

	if (sql && PQserverVersion(sql) < 100000)
		n = 1;
	for (size_t i = 0; i < n && !failed; i++) {
		name = checks[i].name;
		if (checks[i].sql)
			failed = check_query(sql, name, checks[i].sql, params, cb, err);
		else
			check_connection(conninfo, cb);
	}
	if (failed)
		report(cb, name, PREFLIGHT_FAIL, err->msg, "");
	PQfinish(sql);
	return failed;
}

int preflight_check(PGconn *sql, const char *check, const char *slot, const char *publication,
		    const struct preflight_callback *cb, struct err *err)
{
	const char *params[] = { slot, publication };

	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
		if (strcmp(checks[i].name, check) == 0)
			return check_query(sql, check, checks[i].sql, params, cb, err);
	return err_set(err, ERR_FAIL, "there is no check %s", check);
}
