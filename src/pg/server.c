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
