/*
 * The pipeline without PostgreSQL: the pgoutput messages of N inserts, which are made before the
 * clock starts, decoded, encoded as native JSON and delivered to an output, until all are taken.
 *
 * Usage: deliver N OPTION=VALUE...   as in deliver 100000 to=nats://127.0.0.1/bench?stream=B
 * Prints: rows/s and the CPU seconds of this process.
 */
#include "rows.h"

#include "base/clock.h"
#include "base/mem.h"
#include "core/fanout.h"
#include "decode/decoder.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#define ROWS_A_TRANSACTION 100
#define MESSAGES_A_READ 100
#define FLOW_MS 2

static const struct rows_column columns[] = {
	{ "id", 20 }, { "name", 25 }, { "amount", 1700 }, { "at", 1184 }
};

#define NCOLUMNS (sizeof(columns) / sizeof(columns[0]))

static struct fanout outputs;
static struct source source = {
	.db = STR("bench"), .slot = STR("bench"), .name = STR("bench"), .system_id = 1
};
static struct decoder decoder;
static uint64_t taken[MAX_OUTPUTS];
static int progress;

static void fail(const struct err *err)
{
	fprintf(stderr, "deliver: %s\n", err->msg);
	exit(1);
}

static int on_relation(void *user, struct relation *rel, struct arena *arena, struct err *err)
{
	rel->output_wants = mem_array(MAX_OUTPUTS + 1, sizeof(*rel->output_wants));
	return fanout_plan(&outputs, rel, rel->output_wants, &rel->wanted, err);
}

/* Waits until a sink made progress. */
static void wait_progress(void)
{
	struct pollfd pfd = { progress, POLLIN, 0 };
	struct err err;
	uint64_t n;

	poll(&pfd, 1, 100);
	if (read(progress, &n, sizeof(n)) < 0) {
		/* nothing was there */
	}
	if (fanout_look(&outputs, taken, &err))
		fail(&err);
}

static int on_event(void *user, const struct event *e, struct err *err)
{
	while (!fanout_has_room(&outputs))
		wait_progress();
	fanout_put(&outputs, e);
	return 0;
}

static int on_commit(void *user, uint64_t end_lsn, struct err *err)
{
	return 0;
}

static void put_row(struct strbuf *b, int i)
{
	rows_insert(b, NCOLUMNS);
	rows_value(b, "%d", i);
	rows_value(b, "customer %d", i);
	rows_value(b, "%d.%02d", i, i % 100);
	rows_value(b, "2026-01-02 03:46:40+00");
}

/* What the server would send: messages, and where each of them ends. */
struct recording {
	struct strbuf bytes;
	size_t *ends, n;
};

static void record_end(struct recording *r)
{
	r->ends[r->n++] = r->bytes.n;
}

/* Transactions with LSNs that grow from one run to the next. */
static struct recording record(int rows)
{
	struct recording r = { .ends = mem_array((size_t)rows * 3 + 1, sizeof(*r.ends)) };
	uint64_t lsn = (uint64_t)clock_wall_us() << 8;

	for (int i = 0; i < rows; i++) {
		if (i % ROWS_A_TRANSACTION == 0) {
			wire_begin(&r.bytes, lsn += 256, 1);
			record_end(&r);
		}
		if (i == 0) {
			rows_relation(&r.bytes, columns, NCOLUMNS);
			record_end(&r);
		}
		put_row(&r.bytes, i);
		record_end(&r);
		if (i % ROWS_A_TRANSACTION == ROWS_A_TRANSACTION - 1 || i == rows - 1) {
			wire_commit(&r.bytes, lsn, lsn + 8);
			record_end(&r);
		}
	}
	return r;
}

/* As the program does with what flows (core/capture.c): handed over each FLOW_MS at the latest. */
static void replay(const struct recording *r, uint64_t rows)
{
	int64_t handed_over = clock_ms();
	struct err err;

	for (size_t i = 0, at = 0; i < r->n; at = r->ends[i++]) {
		struct str message = { r->bytes.p + at, r->ends[i] - at };

		if (decoder_message(&decoder, 1, 1, message, &err))
			fail(&err);
		if (i % MESSAGES_A_READ == 0 && clock_ms() - handed_over >= FLOW_MS) {
			fanout_flush(&outputs, false);
			handed_over = clock_ms();
		}
	}
	fanout_drain(&outputs);
	while (taken[0] < rows)
		wait_progress();
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	static const struct decoder_ops ops = { on_relation, on_event, on_commit };
	int rows = argc > 2 ? (int)strtol(argv[1], NULL, 10) : 0;
	struct settings settings;
	struct recording r;
	struct err err;
	int64_t began;
	double cpu;

	if (rows < 1) {
		fprintf(stderr, "usage: deliver N OPTION=VALUE...\n");
		return 64;
	}
	settings_init(&settings);
	for (int i = 2; i < argc; i++) {
		char *eq = strchr(argv[i], '=');

		if (eq)
			*eq = 0;
		if (settings_set(&settings, argv[i], eq ? eq + 1 : "true", &err))
			fail(&err);
	}
	progress = eventfd(0, EFD_NONBLOCK);
	if (fanout_start(&outputs, &settings, &source, progress, &err))
		fail(&err);
	while (!outputs.opened)
		wait_progress();
	decoder_init(&decoder, &source, &ops, NULL);
	r = record(rows);
	cpu = cpu_seconds();
	began = clock_wall_us();
	replay(&r, (uint64_t)rows);
	printf("%.0f %.3f\n", rows * 1e6 / (double)(clock_wall_us() - began), cpu_seconds() - cpu);
	fanout_close(&outputs);
	decoder_release(&decoder);
	settings_release(&settings);
	strbuf_release(&r.bytes);
	free(r.ends);
	return 0;
}
