/* What the event store in SQLite can do, with events of 200 bytes: store_sqlite FILE [EVENTS]
 * prints events/s and events/s of CPU time: of appending a thousand events a call, to one stream
 * and to streams by chance, and of reading. */
#include <pgherald.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 1000

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The rates since the last call. */
static void print_rates(long events)
{
	static double wall, cpu;
	double wall_now = now(CLOCK_MONOTONIC), cpu_now = now(CLOCK_PROCESS_CPUTIME_ID);

	if (events)
		printf("%.0f %.0f\n", (double)events / (wall_now - wall),
		       (double)events / (cpu_now - cpu));
	wall = wall_now;
	cpu = cpu_now;
}

static int count(void *n, const struct herald_stored *e)
{
	++*(long *)n;
	return 0;
}

static long one_stream(long n)
{
	return n / BATCH % 100;
}

static long any_stream(long n)
{
	return n * 7919 % 20000;
}

static int append(struct herald_store *s, long events, long (*stream)(long n))
{
	char *batch = malloc(BATCH * 300), data[150];
	int failed = 0;

	memset(data, 'x', sizeof(data) - 1);
	data[sizeof(data) - 1] = '\0';
	for (long i = 0; i < events && !failed; i += BATCH) {
		char *at = batch;

		for (long n = i; n < i + BATCH; n++)
			at += sprintf(
				at,
				"%c{\"category\":\"order\",\"stream\":\"s%ld\",\"type\":\"Placed\","
				"\"data\":{\"n\":%ld,\"note\":\"%s\"}}",
				n == i ? '[' : ',', stream(n), n, data);
		strcpy(at, "]");
		failed = herald_store_append_many(s, batch);
	}
	free(batch);
	return failed;
}

int main(int argc, char **argv)
{
	long events = argc > 2 ? strtol(argv[2], NULL, 10) : 200000, read = 0;
	struct herald_wanted all = { 0 };
	struct herald_store *s;
	char url[1000];
	int failed;

	snprintf(url, sizeof(url), "sqlite:%s", argc > 1 ? argv[1] : ":memory:");
	s = herald_store_open(url);
	failed = herald_store_init(s);
	print_rates(0);
	failed = failed || append(s, events, one_stream);
	if (!failed)
		print_rates(events);
	failed = failed || append(s, events, any_stream);
	if (!failed)
		print_rates(events);
	failed = failed || herald_store_read(s, &all, count, &read);
	if (failed)
		fprintf(stderr, "%s\n", herald_store_error(s));
	else
		print_rates(read);
	herald_store_close(s);
	return failed ? 1 : 0;
}
