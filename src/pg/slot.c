#include "pg/slot.h"

#include "event/event.h"

#include <stdio.h>
#include <stdlib.h>

static void copy(char *out, size_t size, PGresult *res, int column)
{
	snprintf(out, size, "%s", PQgetvalue(res, 0, column));
}

static void read_row(struct slot_state *s, PGresult *res)
{
	s->exists = true;
	copy(s->plugin, sizeof(s->plugin), res, 0);
	copy(s->database, sizeof(s->database), res, 1);
	s->active = *PQgetvalue(res, 0, 2) == 't';
	s->active_pid = (int)strtol(PQgetvalue(res, 0, 3), NULL, 10);
	lsn_parse(str_c(PQgetvalue(res, 0, 4)), &s->restart_lsn);
	lsn_parse(str_c(PQgetvalue(res, 0, 5)), &s->confirmed_lsn);
	copy(s->holder, sizeof(s->holder), res, 6);
	copy(s->wal_status, sizeof(s->wal_status), res, 7);
	copy(s->invalidation, sizeof(s->invalidation), res, 8);
	s->synced = *PQgetvalue(res, 0, 9) == 't';
	s->temporary = *PQgetvalue(res, 0, 10) == 't';
	s->two_phase = *PQgetvalue(res, 0, 11) == 't';
}

int slot_read(PGconn *sql, const char *name, struct slot_state *s, struct err *err)
{
	int version = PQserverVersion(sql);
	const char *params[] = { name };
	char query[512];
	PGresult *res;

	*s = (struct slot_state){ 0 };
	snprintf(query, sizeof(query),
		 "SELECT s.plugin, s.database, s.active, s.active_pid, s.restart_lsn, "
		 "s.confirmed_flush_lsn, a.application_name, %s, %s, %s, s.temporary, %s "
		 "FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid "
		 "WHERE s.slot_name = $1",
		 version >= 130000 ? "s.wal_status" : "''",
		 version >= 170000 ? "s.invalidation_reason" : "''",
		 version >= 170000 ? "s.synced AND pg_is_in_recovery()" : "false",
		 version >= 150000 ? "s.two_phase" : "false");
	res = conn_query(sql, err, query, 1, params);
	if (!res)
		return -1;
	if (PQntuples(res) == 1)
		read_row(s, res);
	PQclear(res);
	return 0;
}

int slot_others(PGconn *sql, const char *name, char *names, size_t size, struct err *err)
{
	const char *params[] = { name };
	PGresult *res = conn_query(
		sql, err,
		"SELECT string_agg(slot_name, ', ' ORDER BY slot_name) FROM pg_replication_slots "
		"WHERE plugin = 'pgoutput' AND database = current_database() AND slot_name <> $1",
		1, params);

	if (!res)
		return -1;
	snprintf(names, size, "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

int slot_check(const struct slot_state *s, const char *name, const char *database, struct err *err)
{
	bool lost = strcmp(s->wal_status, "lost") == 0;

	if (strcmp(s->plugin, "pgoutput") != 0)
		return err_set(err, ERR_CONFIG, "slot \"%s\" %s; name another one with --slot", name,
			       *s->plugin ? "is for another output plugin than pgoutput"
					  : "is a physical slot");
	if (strcmp(s->database, database) != 0)
		return err_set(
			err, ERR_CONFIG,
			"slot \"%s\" belongs to database \"%s\", not to \"%s\"; name another "
			"one with --slot",
			name, s->database, database);
	if (s->two_phase)
		return err_set(
			err, ERR_CONFIG,
			"slot \"%s\" was made with two_phase: it sends transactions when they "
			"are prepared, which may be rolled back still; name another one with "
			"--slot",
			name);
	if (lost || *s->invalidation)
		return err_set(
			err, ERR_LOST,
			"slot \"%s\" is lost (%s): the WAL it needs is gone, and with it the "
			"events behind " LSN_FMT ". Run pgherald drop and start anew; raise "
			"max_slot_wal_keep_size to keep more",
			name, *s->invalidation ? s->invalidation : s->wal_status,
			LSN_ARG(s->confirmed_lsn));
	if (s->synced)
		return err_set(err, ERR_BUSY,
			       "slot \"%s\" is synchronized from the primary; it can be used when "
			       "this standby is promoted",
			       name);
	if (s->active)
		return err_set(err, ERR_BUSY, "slot \"%s\" is in use by pid %d%s%s%s", name,
			       s->active_pid, *s->holder ? " (" : "", s->holder,
			       *s->holder ? ")" : "");
	return 0;
}

void slot_blockers(PGconn *sql, char *who, size_t size)
{
	struct err err;
	PGresult *res = conn_query(
		sql, &err,
		"SELECT string_agg(who, ', ' ORDER BY start), pg_is_in_recovery() FROM ("
		"SELECT format('pid %s (%s, transaction open%s)', pid, "
		"coalesce(nullif(application_name, ''), usename, backend_type), ' for ' || "
		"date_trunc('second', clock_timestamp() - xact_start)), xact_start "
		"FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() "
		"UNION ALL SELECT format('prepared transaction %L', gid), prepared "
		"FROM pg_prepared_xacts) s(who, start)",
		0, NULL);

	*who = '\0';
	if (!res)
		return;
	if (*PQgetvalue(res, 0, 1) == 't')
		snprintf(who, size, "the primary: run SELECT pg_log_standby_snapshot() there");
	else
		snprintf(who, size, "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
}

/* What makes creating a slot fail otherwise than other statements do. */
static const struct {
	const char *sqlstate;
	enum err_kind kind;
	const char *help;
} refusals[] = {
	{ "42710", ERR_RETRY, "" }, /* it exists: two processes raced */
	{ "55000", ERR_CONFIG,
	  "; run: ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL" },
	{ "53400",
	  ERR_CONFIG, "; drop a slot that nobody reads, or raise max_replication_slots and restart PostgreSQL" },
	{ "0A000", ERR_CONFIG, "; connect to the primary" },
};

static void fail_create(PGresult *res, const char *name, struct err *err)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	enum err_kind kind = conn_classify(state);
	const char *help = "";

	for (size_t i = 0; state && i < sizeof(refusals) / sizeof(refusals[0]); i++)
		if (strcmp(state, refusals[i].sqlstate) == 0) {
			kind = refusals[i].kind;
			help = refusals[i].help;
		}
	err_set(err, kind, "cannot create slot \"%s\": %s%s", name,
		text ? text : "the connection was lost", help);
}

int slot_create(PGconn *repl, const char *name, bool temporary, struct err *err)
{
	bool parens = PQserverVersion(repl) >= 150000;
	char query[256];

	snprintf(query, sizeof(query), "CREATE_REPLICATION_SLOT \"%s\"%s LOGICAL pgoutput %s", name,
		 temporary ? " TEMPORARY" : "",
		 parens ? "(SNAPSHOT 'nothing')" : "NOEXPORT_SNAPSHOT");
	if (!PQsendQuery(repl, query))
		return err_set(err, ERR_RETRY, "cannot ask for slot \"%s\"", name);
	return 0;
}

int slot_created(PGconn *repl, const char *name, uint64_t *consistent_lsn, struct err *err)
{
	PGresult *res;
	int failed;

	if (!PQconsumeInput(repl))
		return err_set(err, ERR_RETRY, "the connection was lost while the slot was made");
	if (PQisBusy(repl))
		return 0;
	res = PQgetResult(repl);
	failed = PQresultStatus(res) != PGRES_TUPLES_OK;
	if (failed)
		fail_create(res, name, err);
	else
		lsn_parse(str_c(PQgetvalue(res, 0, 1)), consistent_lsn);
	PQclear(res);
	while ((res = PQgetResult(repl)) != NULL)
		PQclear(res);
	return failed ? -1 : 1;
}

void slot_cancel(PGconn *repl)
{
	PGcancel *c = PQgetCancel(repl);
	char why[256];

	PQcancel(c, why, sizeof(why));
	PQfreeCancel(c);
}

int slot_advance(PGconn *sql, const char *name, uint64_t lsn, struct err *err)
{
	char text[32];
	const char *params[] = { name, text };
	PGresult *res;

	snprintf(text, sizeof(text), LSN_FMT, LSN_ARG(lsn));
	res = conn_query(sql, err, "SELECT pg_replication_slot_advance($1, $2)", 2, params);
	PQclear(res);
	return res ? 0 : -1;
}

int slot_drop(PGconn *sql, const char *name, struct err *err)
{
	const char *params[] = { name };
	PGresult *res = conn_query(sql, err, "SELECT pg_drop_replication_slot($1)", 1, params);

	PQclear(res);
	return res ? 0 : -1;
}
