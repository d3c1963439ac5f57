#include "pg/server.h"

#include "event/event.h"

#include <stdlib.h>

int server_identify(PGconn *repl, struct server_identity *id, struct err *err)
{
	PGresult *res = conn_query(repl, err, "IDENTIFY_SYSTEM", 0, NULL);
	int failed = 0;

	if (!res)
		return -1;
	if (PQntuples(res) != 1 || PQnfields(res) < 3 ||
	    !lsn_parse(str_c(PQgetvalue(res, 0, 2)), &id->xlogpos))
		failed = err_set(err, ERR_RETRY, "IDENTIFY_SYSTEM had no usable answer");
	else
		id->system_id = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
	if (!failed)
		id->timeline = (uint32_t)strtoul(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	return failed;
}

/* A line of a history file: "1<tab>0/3000158<tab>why". */
static bool history_line(const char *line, uint32_t timeline, uint64_t *fork)
{
	char *at;
	const char *lsn;

	if (strtoul(line, &at, 10) != timeline || at == line || *at != '\t')
		return false;
	lsn = at + 1;
	return lsn_parse((struct str){ lsn, strcspn(lsn, "\t\n") }, fork);
}

int server_fork(PGconn *repl, uint32_t timeline, uint32_t before, uint64_t *fork, struct err *err)
{
	char command[64];
	PGresult *res;
	bool found = false;

	snprintf(command, sizeof(command), "TIMELINE_HISTORY %u", timeline);
	if (timeline < before)
		return err_set(err, ERR_LOST,
			       "this server is on timeline %u, the one before was on %u: it is an "
			       "older one",
			       timeline, before);
	res = conn_query(repl, err, command, 0, NULL);
	if (!res)
		return -1;
	for (const char *line = PQntuples(res) ? PQgetvalue(res, 0, 1) : NULL; line && !found;
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		found = history_line(line, before, fork);
	PQclear(res);
	if (!found)
		return err_set(err, ERR_LOST, "timeline %u of this server does not come from %u",
			       timeline, before);
	return 0;
}

int server_sender_timeout(PGconn *sql, int *ms, struct err *err)
{
	PGresult *res = conn_query(
		sql, err, "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'", 0,
		NULL);

	if (!res)
		return -1;
	*ms = PQntuples(res) ? (int)strtol(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	PQclear(res);
	return 0;
}

int server_awaits(PGconn *sql, int sender_pid, bool *awaits, struct err *err)
{
	char pid[16];
	const char *params[] = { pid };
	PGresult *res;

	snprintf(pid, sizeof(pid), "%d", sender_pid);
	res = conn_query(sql, err,
			 "SELECT FROM pg_stat_replication WHERE pid = $1::int "
			 "AND sync_state IN ('sync', 'quorum')",
			 1, params);
	if (!res)
		return -1;
	*awaits = PQntuples(res) > 0;
	PQclear(res);
	return 0;
}
