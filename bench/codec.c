/*
 * Decoder and encoder alone, on one core: the pgoutput messages of a million inserts, as the server
 * sends them, decoded and encoded as native JSON. Usage: codec [ROUNDS]
 */
#include "rows.h"

#include "decode/decoder.h"
#include "encode/encode.h"

#include <stdlib.h>
#include <time.h>

#define ROWS 1000

static const struct rows_column columns[] = { { "id", 20 },       { "n", 23 },    { "name", 25 },
					      { "amount", 1700 }, { "body", 25 }, { "at", 1184 },
					      { "tags", 1009 },   { "doc", 3802 } };

#define NCOLUMNS (sizeof(columns) / sizeof(columns[0]))

static struct strbuf out;
static uint64_t bytes;

static int on_relation(void *user, struct relation *rel, struct arena *arena, struct err *err)
{
	rel->wanted = ACTIONS_ALL;
	return 0;
}

static int on_event(void *user, const struct event *e, struct err *err)
{
	static const struct encode_options options;

	out.n = 0;
	format_native.event(&options, e, &out);
	bytes += out.n;
	return 0;
}

static int on_commit(void *user, uint64_t end_lsn, struct err *err)
{
	return 0;
}

static void put_row(struct strbuf *b, int i)
{
	rows_insert(b, NCOLUMNS);
	rows_value(b, "%d", i + 100000);
	rows_value(b, "%d", i % 1000);
	rows_value(b, "customer %d", i + 100000);
	rows_value(b, "%d.%02d", i, i % 100);
	rows_value(b, "c4ca4238a0b923820dcc509a6f75849bc4ca4238a0b923820dcc509a6f75");
	rows_value(b, "2026-01-02 03:46:40+00");
	rows_value(b, "{red,green,\"tag %d\"}", i % 50);
	rows_value(b, "{\"k\": %d, \"flag\": %s}", i + 100000, i % 2 ? "false" : "true");
}

int main(int argc, char **argv)
{
	static const struct decoder_ops ops = { on_relation, on_event, on_commit };
	static const struct source source = { .db = STR("bench") };
	int rounds = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 3;
	struct strbuf wire = { 0 };
	size_t ends[ROWS];
	struct decoder d;
	struct err err;

	decoder_init(&d, &source, &ops, NULL);
	wire_begin(&wire, 1, 1);
	if (decoder_message(&d, 1, 1, strbuf_view(&wire), &err))
		return 1;
	wire.n = 0;
	rows_relation(&wire, columns, NCOLUMNS);
	if (decoder_message(&d, 1, 1, strbuf_view(&wire), &err))
		return 1;
	wire.n = 0;
	for (int i = 0; i < ROWS; i++) {
		put_row(&wire, i);
		ends[i] = wire.n;
	}
	for (int round = 0; round < rounds; round++) {
		clock_t began =
			clock(); /* the processor's, so that others on the machine do not count */
		double us;

		bytes = 0;
		for (int k = 0; k < 1000; k++) {
			size_t at = 0;

			for (int i = 0; i < ROWS; at = ends[i++])
				if (decoder_message(&d, 1, 1,
						    (struct str){ wire.p + at, ends[i] - at }, &err))
					return 1;
		}
		us = (double)(clock() - began) * 1e6 / CLOCKS_PER_SEC;
		printf("decode and encode: %.0f rows/s of one core, %.0f ns a row, %.0f bytes a "
		       "row\n",
		       ROWS * 1000 * 1e6 / us, us / ROWS, (double)bytes / ROWS / 1000);
	}
	decoder_release(&d);
	strbuf_release(&wire);
	strbuf_release(&out);
	return 0;
}
