#include "core/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "core/publish.h"
#include "pg/catalog.h"
#include "pg/conn.h"
#include "pg/publication.h"
#include "pg/server.h"
#include "pg/slot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

/* How long a transaction that cannot be seen yet is waited for: less than a server's patience. */
#define SEE_MS 5000
#define SEE_MOST_MS 64 /* between two looks */
/* A server that takes so long to make the slot is asked whom it waits for. */
#define SAY_WHO_MS 2000

static struct str keep(struct arena *a, const char *s)
{
	size_t n = strlen(s);

	return (struct str){ arena_copy(a, s, n), n };
}

/* The server must be the one that `before` came from. After a failover it may have a new timeline,
 * but one that holds all that was delivered: what is behind the place where it forked has other
 * content under the same LSNs. */
static int same_server(PGconn *repl, const struct server_identity *id, const struct mark *before,
		       uint64_t delivered, struct err *err)
{
	uint64_t fork;

	if (id->system_id != before->system_id)
		return err_set(err, ERR_LOST,
			       "this is another server: its system identifier is %" PRIu64
			       ", it was %" PRIu64,
			       id->system_id, before->system_id);
	if (id->timeline == before->timeline)
		return 0;
	if (server_fork(repl, id->timeline, before->timeline, &fork, err))
		return -1;
	if (delivered < fork)
		return 0;
	return err_set(err, ERR_LOST,
		       "this server left the timeline of the last one at " LSN_FMT ", but " LSN_FMT
		       " has been delivered: the failover lost what is between",
		       LSN_ARG(fork), LSN_ARG(delivered));
}

/* Fills the source the first time; later, the server must be the same. */
static int identify(struct session *s, PGconn *repl, const struct session_past *past, struct err *err)
{
	struct source *source = past->source;
	struct server_identity id;

	if (server_identify(repl, &id, err))
		return -1;
	s->server_lsn = id.xlogpos;
	source->server_version = (uint32_t)PQserverVersion(repl);
	if (past->connected) {
		struct mark before = { 0, source->system_id, source->timeline };

		if (same_server(repl, &id, &before, past->delivered, err))
			return -1;
		source->timeline = id.timeline;
		return 0;
	}
	source->timeline = id.timeline;
	source->system_id = id.system_id;
	source->db = keep(past->arena, PQdb(repl));
	source->slot = keep(past->arena, past->settings->slot);
	source->name = past->settings->name ? keep(past->arena, past->settings->name) : source->db;
	return 0;
}

/* The publication comes before the slot: decoding sees the catalog as it was at that point of the
 * WAL, so a slot that is older than its publication would be stuck. */
static int ensure_publication(struct session *s, const struct settings *settings,
			      const struct session_past *past, struct err *err)
{
	struct publication_state p;

	if (publication_read(s->sql, settings->publication, &p, err))
		return -1;
	if (p.exists)
		return 0;
	if (past->connected)
		return err_set(
			err, ERR_LOST,
			"publication \"%s\" was dropped while it was in use: changes since then "
			"cannot be had from slot \"%s\"; create it, then go on behind them with "
			"--from now (what is before is given up)",
			settings->publication, settings->slot);
	if (!settings->create)
		return err_set(err, ERR_CONFIG,
			       "publication \"%s\" does not exist and --no-create was given; run: "
			       "CREATE PUBLICATION \"%s\" FOR ALL TABLES",
			       settings->publication, settings->publication);
	if (publish_create(s->sql, settings, err))
		return -1;
	log_info("created publication %s", settings->publication);
	return 0;
}

static void say_who(struct session *s)
{
	char who[800];

	if (clock_ms() < s->say_ms)
		return;
	s->say_ms = INT64_MAX;
	slot_blockers(s->sql, who, sizeof(who));
	log_info("creating the slot waits for the transactions that are open now%s%s",
		 *who ? ": " : "", who);
}

static int create_slot(struct session *s, const struct settings *settings, struct err *err)
{
	s->creating = slot_create(s->repl, settings->slot, settings->temporary, err) == 0;
	s->say_ms = clock_ms() + SAY_WHO_MS;
	return s->creating ? 0 : -1;
}

/* 1: the slot is there, 0: not yet. */
static int await_slot(struct session *s, const struct settings *settings, struct err *err)
{
	int made = slot_created(s->repl, settings->slot, &s->start, err);

	if (made == 0)
		say_who(s);
	else
		s->creating = false;
	if (made <= 0)
		return made;
	s->confirmed = s->start;
	log_info("created %sslot %s at " LSN_FMT, settings->temporary ? "temporary " : "",
		 settings->slot, LSN_ARG(s->start));
	return 1;
}

/* Whether an output holds or remembers something of the slot: if it is missing, that is a gap. */
static bool outputs_know(const struct fanout *f)
{
	for (size_t i = 0; i < f->n; i++)
		if (f->v[i].sink->held.lsn || f->v[i].sink->mark.lsn)
			return true;
	return false;
}

/* The slot is only told what every output remembers. One that stands further has been moved, used
 * or made anew by somebody else, and what is between never came to that output. */
static int check_marks(const struct session_past *past, uint64_t confirmed, struct err *err)
{
	for (size_t i = 0; i < past->outputs->n; i++) {
		const struct sink *sink = past->outputs->v[i].sink;

		if (sink->mark.lsn && sink->mark.lsn < confirmed)
			return err_set(err, ERR_LOST,
				       "slot \"%s\" stands at " LSN_FMT
				       ", but output %s has come to " LSN_FMT
				       " only: somebody else moved, used or recreated the "
				       "slot. To accept the gap, give --from " LSN_FMT,
				       past->settings->slot, LSN_ARG(confirmed), sink->label,
				       LSN_ARG(sink->mark.lsn), LSN_ARG(confirmed));
	}
	return 0;
}

/* A slot that is not there: made when this is the beginning, otherwise a gap that somebody has to
 * know of. */
static int missing_slot(struct session *s, const struct settings *settings,
			const struct session_past *past, struct err *err)
{
	bool anew = settings->from && strcmp(settings->from, "now") == 0 && !past->connected;

	if (settings->from && strcmp(settings->from, "now") != 0 && !past->connected)
		return err_set(
			err, ERR_CONFIG,
			"from: slot \"%s\" does not exist, so nothing before now can be had; "
			"leave --from out to make it",
			settings->slot);
	if (settings->temporary) {
		if (past->connected)
			log_warn("the temporary slot ended with its connection: changes in between "
				 "are not shown");
		return create_slot(s, settings, err);
	}
	if (past->connected || (outputs_know(past->outputs) && !anew))
		return err_set(
			err, ERR_LOST,
			"slot \"%s\" does not exist, but %s: what was committed since is lost to "
			"it. To start anew from here and accept the gap, give --from now",
			settings->slot,
			past->connected ? "was in use" : "an output holds events from it");
	if (!settings->create)
		return err_set(err, ERR_CONFIG,
			       "slot \"%s\" does not exist and --no-create was given; run: SELECT "
			       "pg_create_logical_replication_slot('%s', 'pgoutput')",
			       settings->slot, settings->slot);
	return create_slot(s, settings, err);
}

/* Where to begin in a slot that exists. --from moves it forward, once; never back. */
static int choose_start(struct session *s, const struct settings *settings,
			const struct session_past *past, const struct slot_state *slot,
			struct err *err)
{
	uint64_t from = 0;

	s->start = s->confirmed = slot->confirmed_lsn;
	if (past->connected) {
		if (s->start > past->confirmed && past->was_busy) {
			log_info("another process has taken slot %s on to " LSN_FMT, settings->slot,
				 LSN_ARG(s->start));
			return 0;
		}
		if (s->start > past->confirmed)
			return err_set(
				err, ERR_LOST,
				"slot \"%s\" stands at " LSN_FMT ", but only " LSN_FMT
				" has been delivered: somebody else moved or used it, and what "
				"is between may be lost",
				settings->slot, LSN_ARG(s->start), LSN_ARG(past->confirmed));
		s->start = past->confirmed;
		return 0;
	}
	if (!settings->from)
		return past->was_busy ? 0 : check_marks(past, slot->confirmed_lsn, err);
	if (strcmp(settings->from, "now") == 0)
		from = s->server_lsn;
	else if (!lsn_parse(str_c(settings->from), &from))
		return err_set(err, ERR_CONFIG, "from: \"%s\" is neither \"now\" nor an LSN",
			       settings->from);
	else if (from < s->start)
		return err_set(err, ERR_LOST,
			       "from: slot \"%s\" has been confirmed up to " LSN_FMT
			       "; what is before "
			       "it is gone",
			       settings->slot, LSN_ARG(s->start));
	else if (from > s->start && from > s->server_lsn)
		return err_set(err, ERR_CONFIG,
			       "from: " LSN_FMT " is beyond the end of the server's log, " LSN_FMT
			       ": what is committed before it would be lost",
			       LSN_ARG(from), LSN_ARG(s->server_lsn));
	if (from > s->start)
		s->start = from;
	return 0;
}

/* What an output holds must come from this server. */
static int identify_outputs(PGconn *repl, const struct session_past *past, struct err *err)
{
	struct server_identity id = { past->source->system_id, past->source->timeline, 0 };

	for (size_t i = 0; i < past->outputs->n; i++) {
		const struct sink *sink = past->outputs->v[i].sink;

		if (sink->mark.lsn && same_server(repl, &id, &sink->mark, sink->held.lsn, err))
			return err_add(err,
				       "output %s holds events of the server before; give it "
				       "another place",
				       sink->label);
	}
	return 0;
}

/* To look around with a slot that others rely on would take their events from them. */
static int check_slot(const struct session *s, const struct settings *settings,
		      const struct slot_state *slot, struct err *err)
{
	if (settings->temporary && !slot->temporary)
		return err_set(err, ERR_CONFIG,
			       "slot \"%s\" is there already and is not temporary: what is shown "
			       "would be lost to whom it is for; name another one with --slot",
			       settings->slot);
	return slot_check(slot, settings->slot, PQdb(s->sql), err);
}

static int ensure_slot(struct session *s, const struct settings *settings,
		       const struct session_past *past, struct err *err)
{
	struct slot_state slot;

	if (slot_read(s->sql, settings->slot, &slot, err))
		return -1;
	if (!slot.exists)
		return missing_slot(s, settings, past, err);
	if (check_slot(s, settings, &slot, err))
		return -1;
	return choose_start(s, settings, past, &slot, err);
}

static int learn(struct session *s, const struct session_past *past, struct err *err)
{
	const char *encoding = PQparameterStatus(s->sql, "server_encoding");
	struct slot_state slot;

	s->text_is_unchecked = encoding && strcmp(encoding, "SQL_ASCII") == 0;
	if (PQserverVersion(s->sql) < 100000)
		return err_set(err, ERR_CONFIG,
			       "PostgreSQL %d is too old: pgoutput needs 10 or later",
			       PQserverVersion(s->sql) / 10000);
	if (identify(s, s->repl, past, err) ||
	    server_sender_timeout(s->sql, &s->sender_timeout_ms, err) ||
	    slot_read(s->sql, past->settings->slot, &slot, err))
		return -1;
	return slot.exists ? check_slot(s, past->settings, &slot, err) : 0;
}

int session_open(struct session *s, const struct session_past *past, struct err *err)
{
	int there;

	if (!s->dial)
		s->dial = dial_start(past->settings->connection, past->wake, err);
	there = s->dial ? dial_take(&s->dial, &s->sql, &s->repl, err) : -1;
	if (there == 0)
		return 0;
	if (there > 0) {
		conn_stop_by(s->sql, past->stop);
		conn_stop_by(s->repl, past->stop);
		if (learn(s, past, err) == 0)
			return 1;
	}
	session_close(s);
	return -1;
}

int session_start(struct session *s, const struct session_past *past, struct err *err)
{
	const struct settings *settings = past->settings;
	struct stream_start begin = { .slot = settings->slot,
				      .publications = &settings->publication,
				      .npublications = 1,
				      .messages = true,
				      .binary = past->binary,
				      .stop = past->stop };
	PGconn *repl = s->repl;

	int made;

	if (!s->creating &&
	    ((!past->connected && identify_outputs(repl, past, err)) ||
	     ensure_publication(s, settings, past, err) || ensure_slot(s, settings, past, err)))
		return -1;
	made = s->creating ? await_slot(s, settings, err) : 1;
	if (made <= 0)
		return made;
	begin.lsn = s->start;
	s->sender_pid = PQbackendPID(repl);
	s->repl = NULL;
	s->stream = stream_open(repl, &begin, err);
	return s->stream ? 1 : -1;
}

int session_fd(const struct session *s)
{
	return s->stream ? stream_fd(s->stream) : PQsocket(s->repl);
}

/* 1: it can be seen, or waits for nobody but us; 0: not yet. */
static int look_for(struct session *s, uint32_t xid, bool patient, struct err *err)
{
	int seen = catalog_sees(s->sql, xid, &s->snapshot, err);
	bool ours;

	s->looks++;
	if (seen || patient)
		return seen;
	if (server_awaits(s->sql, s->sender_pid, &ours, err))
		return -1;
	if (ours && !s->standby_said)
		log_warn("commits wait for pgherald, which is one of synchronous_standby_names; "
			 "name only others there");
	s->standby_said |= ours;
	return ours;
}

int session_see(struct session *s, uint32_t xid, const _Atomic int *stop, struct err *err)
{
	int64_t end = clock_ms() + SEE_MS;
	long ms = 1;
	int seen;

	if (xid == 0 || xid == s->seen)
		return 0;
	if (catalog_saw(strbuf_view(&s->snapshot), xid)) {
		s->seen = xid;
		return 0;
	}
	while ((seen = look_for(s, xid, ms < SEE_MOST_MS, err)) == 0 && !*stop && clock_ms() < end) {
		nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
		ms = ms < SEE_MOST_MS ? ms * 2 : ms;
	}
	if (seen == 0)
		return err_set(err, ERR_RETRY,
			       "transaction %" PRIu32
			       " is committed, but nobody can see it yet: it may "
			       "be waiting for a synchronous standby",
			       xid);
	if (seen > 0)
		s->seen = xid;
	return seen > 0 ? 0 : -1;
}

int session_describe(struct session *s, struct relation *rel, struct arena *arena, struct err *err)
{
	if (catalog_store(s->sql, rel, err))
		return -1;
	rel->types_look = s->looks;
	return catalog_relation(s->sql, rel, arena, err);
}

int session_retype(struct session *s, struct relation *rel, struct err *err)
{
	if (rel->types_look == s->looks)
		return 0;
	rel->types_look = s->looks;
	return catalog_retype(s->sql, rel, err);
}

int session_stream(struct session *s, const struct relation *rel, struct str number,
		   struct arena *arena, struct str *category, struct str *id, struct err *err)
{
	return catalog_stream(s->sql, rel, number, arena, category, id, err);
}

int session_tables(struct session *s, const struct settings *settings,
		   int (*fn)(void *user, const struct relation *rel, struct err *err), void *user,
		   struct err *err)
{
	return catalog_tables(s->sql, settings->publication, fn, user, err);
}

int session_check_publication(struct session *s, const struct settings *settings,
			      struct strbuf *lacks, struct err *err)
{
	struct session_past past = { .connected = true };

	if (ensure_publication(s, settings, &past, err))
		return -1;
	return publish_lacks(s->sql, settings, lacks, err);
}

void session_close(struct session *s)
{
	dial_leave(s->dial);
	stream_close(s->stream);
	if (s->creating)
		slot_cancel(s->repl);
	PQfinish(s->repl);
	PQfinish(s->sql);
	strbuf_release(&s->snapshot);
	*s = (struct session){ 0 };
}
