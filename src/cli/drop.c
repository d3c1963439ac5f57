/* pgherald drop: removes slot and publication, the only thing that does. */
#include "cli/cli.h"
#include "pg/publication.h"
#include "pg/slot.h"

#include <stdio.h>
#include <unistd.h>

static bool agreed(const struct settings *s)
{
	int answer;

	if (s->yes)
		return true;
	printf("Go on? [y/N] ");
	fflush(stdout);
	answer = getchar();
	return answer == 'y' || answer == 'Y';
}

/* Says what will be removed; returns whether anything will. */
static bool announce(const struct settings *s, const struct slot_state *slot,
		     const struct publication_state *publication)
{
	if (slot->exists)
		printf("slot %s will be removed: events that were not delivered are given up\n",
		       s->slot);
	if (publication->ours)
		printf("publication %s will be removed\n", s->publication);
	else if (publication->exists)
		printf("publication %s stays: pgherald did not make it\n", s->publication);
	return slot->exists || publication->ours;
}

static int drop(const struct settings *s, PGconn *sql, struct err *err)
{
	struct publication_state publication;
	struct slot_state slot;

	if (slot_read(sql, s->slot, &slot, err) ||
	    publication_read(sql, s->publication, &publication, err))
		return -1;
	if (slot.active)
		return err_set(err, ERR_BUSY, "slot \"%s\" is in use by pid %d: end that first",
			       s->slot, slot.active_pid);
	if (slot.exists && strcmp(slot.plugin, "pgoutput") != 0)
		return err_set(err, ERR_CONFIG, "slot \"%s\" is not one of pgherald's", s->slot);
	if (!announce(s, &slot, &publication)) {
		printf("nothing to remove: there is no slot %s\n", s->slot);
		return 0;
	}
	if (!s->yes && !isatty(STDIN_FILENO))
		return err_set(err, ERR_USAGE, "nobody is here to ask: add --yes");
	if (!agreed(s)) {
		printf("nothing was removed\n");
		return 0;
	}
	if (slot.exists && slot_drop(sql, s->slot, err))
		return -1;
	if (publication.ours && publication_drop(sql, s->publication, err))
		return -1;
	printf("done\n");
	return 0;
}

int drop_run(const struct command *command, struct settings *s)
{
	struct err err = { 0 };
	PGconn *sql = conn_open(s->connection, CONN_SQL, &err);
	int failed = sql ? drop(s, sql, &err) : -1;

	if (failed)
		fprintf(stderr, "pgherald: %s\n", err.msg);
	PQfinish(sql);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
