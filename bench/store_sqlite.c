/* What the event store in SQLite can do, with events of 200 bytes: store_sqlite FILE [EVENTS]
 * prints events/s and events/s of CPU time: of appending a thousand events a call, to one stream
 * and to streams by chance, and of reading. store_sqlite FILE EVENTS purge appends one by one, alone
 * and while another thread purges nine tenths of the events, and prints for each how many appends
 * there were and the 99th percentile and the longest in ms; then events purged per second. */
#include <pgherald.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 1000
#define STREAMS 20000

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
	return n * 7919 % STREAMS;
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

/* ---- purging beside appends ---- */

#define MOST 1000000

struct purge {
	const char *url;
	_Atomic int done;
	long removed;
};

static void *purge_all(void *user)
{
	struct purge *p = user;
	struct herald_store *s = herald_store_open(p->url);
	int64_t n = 1;

	while (n && herald_store_purge(s, BATCH, 0, &n) == 0)
		p->removed += n;
	herald_store_close(s);
	p->done = 1;
	return NULL;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Appends until p is done, or 2,000 times. */
static int append_singly(struct herald_store *s, const struct purge *p)
{
	double *ms = malloc(MOST * sizeof(*ms)), begin;
	int failed = 0;
	long n = 0;

	while (n < MOST && !failed && (p ? !p->done : n < 2000)) {
		begin = now(CLOCK_MONOTONIC);
		failed = herald_store_append(s, "other", "1", "{\"type\": \"Placed\"}",
					     HERALD_ANY_VERSION, NULL);
		ms[n++] = 1000 * (now(CLOCK_MONOTONIC) - begin);
	}
	qsort(ms, (size_t)n, sizeof(*ms), by_size);
	printf("%ld %.1f %.1f\n", n, ms[n * 99 / 100], ms[n - 1]);
	free(ms);
	return failed;
}

static int purge(struct herald_store *s, const char *url, long events)
{
	struct purge p = { .url = url };
	pthread_t thread;
	double begin;
	int failed;

	if (append_singly(s, NULL) ||
	    herald_store_retain(s, "order", 0, events / STREAMS > 10 ? events / STREAMS / 10 : 1))
		return -1;
	begin = now(CLOCK_MONOTONIC);
	if (pthread_create(&thread, NULL, purge_all, &p))
		return -1;
	failed = append_singly(s, &p);
	pthread_join(thread, NULL);
	printf("%.0f\n", (double)p.removed / (now(CLOCK_MONOTONIC) - begin));
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
	if (argc > 3) {
		failed = failed || append(s, events, any_stream) || purge(s, url, events);
	} else {
		failed = failed || append(s, events, one_stream);
		if (!failed)
			print_rates(events);
		failed = failed || append(s, events, any_stream);
		if (!failed)
			print_rates(events);
		failed = failed || herald_store_read(s, &all, count, &read);
		if (!failed)
			print_rates(read);
	}
	if (failed)
		fprintf(stderr, "%s\n", herald_store_error(s));
	herald_store_close(s);
	return failed ? 1 : 0;
}
