/*
 * Domain events for an application that knows nothing of events: whenever a row of any table in
 * schema public is updated, a function is called with the old and the new values.
 *
 *	create table actors (nconst text primary key, primaryname text, birthyear integer,
 *	                     deathyear integer, primaryprofession text, knownfortitles text);
 *	alter table actors replica identity full;   -- so that old values are known
 *
 *	cc actors.c -o actors $(pkg-config --cflags --libs pgherald)
 *	./actors "dbname=movies"
 */
#include <pgherald.h>
#include <signal.h>
#include <stdio.h>

static struct herald_stream *stream;

static void on_signal(int signal)
{
	herald_stream_stop(stream);
}

/* What is not known is no null: without FULL the old row is its key at most. */
static const char *shown(const struct herald_event *e, enum herald_side side, int column)
{
	const char *text = herald_text(e, side, column, NULL);

	return text ? text : herald_kind(e, side, column) == HERALD_NULL ? "null" : "(not sent)";
}

static enum herald_answer on_update(void *user, const struct herald_event *e)
{
	char id[HERALD_ID_SIZE];

	printf("%s %s.%s\n", herald_id(e, id), herald_schema(e), herald_table(e));
	for (int i = 0; i < herald_columns(e); i++)
		printf("  %s: %s -> %s\n", herald_column_name(e, i), shown(e, HERALD_OLD, i),
		       shown(e, HERALD_NEW, i));
	fflush(stdout);
	return HERALD_TAKEN;
}

int main(int argc, char **argv)
{
	int failed;

	stream = herald_stream_new();
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	failed = herald_stream_set(stream, "connection", argc > 1 ? argv[1] : "") ||
		 herald_stream_set(stream, "slot", "actors") ||
		 herald_stream_set(stream, "publication", "actors") ||
		 herald_stream_on(stream, HERALD_UPDATE, "public.*", on_update, NULL) ||
		 herald_stream_run(stream);
	if (failed)
		fprintf(stderr, "actors: %s\n", herald_stream_error(stream));
	herald_stream_free(stream);
	return failed ? 1 : 0;
}
