/*
 * Forwards every change of a database to a broker of your choice, and counts along.
 *
 *	cc forward.c -o forward $(pkg-config --cflags --libs pgherald)
 *	./forward "dbname=shop" "nats://localhost/shop.{table}.{action}?stream=SHOP"
 *	./forward "dbname=shop" "amqp://localhost/?exchange=shop"
 *	./forward "dbname=shop" "kafka://localhost:9092/shop.{table}"
 *
 * The library's outputs are those of `pgherald stream --to`: an event leaves the replication slot
 * when the broker has taken it and the callback has returned. A program that speaks to its broker
 * itself answers HERALD_LATER instead and calls herald_stream_acknowledge when the broker has
 * confirmed; see pgherald.h.
 */
#include <pgherald.h>
#include <signal.h>
#include <stdio.h>

static struct herald_stream *stream;

static void on_signal(int signal)
{
	herald_stream_stop(stream);
}

static enum herald_answer count(void *user, const struct herald_event *e)
{
	unsigned long *n = user;

	++*n;
	return HERALD_TAKEN;
}

int main(int argc, char **argv)
{
	unsigned long n = 0;
	int failed;

	if (argc != 3) {
		fprintf(stderr, "usage: forward CONNINFO URL\n");
		return 64;
	}
	stream = herald_stream_new();
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	failed = herald_stream_set(stream, "connection", argv[1]) ||
		 herald_stream_set(stream, "slot", "forward") ||
		 herald_stream_set(stream, "to", argv[2]) ||
		 herald_stream_on(stream, HERALD_ALL, "*.*", count, &n) || herald_stream_run(stream);
	if (failed)
		fprintf(stderr, "forward: %s\n", herald_stream_error(stream));
	herald_stream_free(stream);
	printf("%lu events forwarded\n", n);
	return failed ? 1 : 0;
}
