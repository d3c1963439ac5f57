#include "store/postgres_lists.h"

/* clang-format off */
const char *const postgres_lists[STORE_N_LISTS] = {
	/* What must hold, whether it does, and the SQL or words that mend it. */
	[STORE_CHECK] =
	"WITH marks AS (SELECT min(a.xact_start) AS since, min(a.pid) AS pid,"
	"  bool_or(l.pid IS NULL) AS prepared FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)"
	"  WHERE l.locktype = 'advisory' AND l.objsubid = 1"
	"  AND l.classid::bigint >> 16 = herald.mark_tag()"
	"  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
	" SELECT 'the schema is up to date' AS \"check\", (SELECT max(number) FROM herald.migration) >= $1::int AS ok,"
	"  'run pgherald store init' AS mend"
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
	"  format('end it, or SELECT pg_terminate_backend(%s)', pid) FROM marks",
	[STORE_STATS] =
	"SELECT 'version' AS name, (SELECT max(number) FROM herald.migration)::text AS value"
	" UNION ALL SELECT 'streams', count(*)::text FROM herald.stream"
	" UNION ALL SELECT 'events', count(*)::text FROM herald.feed"
	" UNION ALL SELECT 'last_position', coalesce(max(position), 0)::text FROM herald.feed"
	" UNION ALL SELECT 'horizon', herald.horizon()::text"
	" UNION ALL SELECT 'in_flight', count(*)::text FROM pg_locks WHERE locktype = 'advisory'"
	"  AND objsubid = 1 AND classid::bigint >> 16 = herald.mark_tag()"
	"  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
	" UNION ALL SELECT 'bytes', sum(pg_total_relation_size(oid))::text FROM pg_class"
	"  WHERE relkind = 'r' AND relnamespace = 'herald'::regnamespace",
	[STORE_LAG] = "SELECT * FROM herald.lag ORDER BY subscription, partition",
	[STORE_PARKED_LIST] =
	"SELECT p.position, e.category, e.stream, e.version, e.type, p.attempts, p.error, p.parked"
	" FROM herald.parked p LEFT JOIN herald.event e USING (position)"
	" WHERE p.subscription = $1 AND NOT p.done ORDER BY p.position",
};
/* clang-format on */
