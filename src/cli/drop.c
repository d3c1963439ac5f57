/* pgherald drop: removes slot and publication, the only thing that does. */
#include "cli/cli.h"
#include "pg/publication.h"
#include "pg/slot.h"

#include <stdio.h>
#include <unistd.h>

struct found {
	struct slot_state slot;
	struct publication_state publication;
	char others[500]; /* slots that may use the publication too, "" when there are none */
};

static int look(const struct settings *s, PGconn *sql, struct found *f, struct err *err)
{
	if (slot_read(sql, s->slot, &f->slot, err) ||
	    publication_read(sql, s->publication, &f->publication, err) ||
	    slot_others(sql, s->slot, f->others, sizeof(f->others), err))
		return -1;
	if (!f->slot.exists)
		return 0;
	if (strcmp(f->slot.plugin, "pgoutput") != 0)
		return err_set(err, ERR_CONFIG, "slot \"%s\" is not one of pgherald's", s->slot);
	if (strcmp(f->slot.database, PQdb(sql)) != 0)
		return err_set(err, ERR_CONFIG, "slot \"%s\" belongs to database \"%s\"", s->slot,
			       f->slot.database);
	if (f->slot.active)
		return err_set(err, ERR_BUSY, "slot \"%s\" is in use by pid %d: end that first",
			       s->slot, f->slot.active_pid);
	return 0;
}

static bool drops_publication(const struct found *f)
{
	return f->publication.ours && !*f->others;
}

/* Says what will be removed; returns whether anything will. */
static bool announce(const struct settings *s, const struct found *f)
{
	if (f->slot.exists)
		printf("slot %s will be removed: events that were not delivered are given up\n",
		       s->slot);
	else
		printf("there is no slot %s\n", s->slot);
	if (drops_publication(f))
		printf("publication %s will be removed\n", s->publication);
	else if (f->publication.ours)
		printf("publication %s stays: it may be in use with slot %s\n", s->publication,
		       f->others);
	else if (f->publication.exists)
		printf("publication %s stays: pgherald did not make it\n", s->publication);
	else
		printf("there is no publication %s\n", s->publication);
	return f->slot.exists || drops_publication(f);
}

static bool agreed(void)
{
	int answer;

	printf("Go on? [y/N] ");
	fflush(stdout);
	answer = getchar();
	return answer == 'y' || answer == 'Y';
}

static int drop(const struct settings *s, PGconn *sql, struct err *err)
{
	struct found f;

	if (look(s, sql, &f, err))
		return -1;
	if (!announce(s, &f)) {
		printf("nothing to remove\n");
		return 0;
	}
	if (!s->yes && !isatty(STDIN_FILENO))
		return err_set(err, ERR_USAGE, "nobody is here to ask: add --yes");
	if (!s->yes && !agreed()) {
		printf("nothing was removed\n");
		return 0;
	}
	if (f.slot.exists && slot_drop(sql, s->slot, err))
		return -1;
	if (drops_publication(&f) && publication_drop(sql, s->publication, err))
		return -1;
	printf("done\n");
	return 0;
}

int drop_run(const struct command *command, struct settings *s)
{
	struct err err = { 0 };
	PGconn *sql = conn_open(s->connection, CONN_SQL, &err);
	int failed = sql ? drop(s, sql, &err) : -1;

	fflush(stdout); /* before what it leads to */
	if (failed)
		fprintf(stderr, "pgherald: %s\n", err.msg);
	PQfinish(sql);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
