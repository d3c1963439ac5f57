/* pgoutput messages taken apart: every kind of versions 1 to 4, and what is not one. */
#include "test.h"
#include "wire.h"

#include "decode/pgoutput.h"

#include <stdlib.h>

static struct pgoutput parser;
static struct strbuf wire;
static struct pgoutput_message m;
static struct err err;

static int begin_test(void **state)
{
	wire.n = 0;
	return 0;
}

static int end_test(void **state)
{
	strbuf_release(&wire);
	pgoutput_release(&parser);
	return 0;
}

/* Parses the bytes as an exact allocation, so that a read beyond them is seen. */
static int parse_exactly(struct str s)
{
	char *copy = malloc(s.n ? s.n : 1);
	int result;

	memcpy(copy, s.p, s.n);
	result = pgoutput_parse(&parser, (struct str){ copy, s.n }, &m, &err);
	free(copy);
	return result;
}

/* Whole it parses; each proper prefix and one byte more do not. */
static void check_bounds(size_t optional_tail)
{
	bool in_stream = parser.in_stream;

	for (size_t n = 0; n < wire.n; n++) {
		if (n + optional_tail == wire.n && optional_tail)
			continue;
		parser.in_stream = in_stream;
		assert_int_equal(parse_exactly((struct str){ wire.p, n }), -1);
		assert_int_equal(err.kind, ERR_FAIL);
	}
	wire_u8(&wire, 'x');
	parser.in_stream = in_stream;
	assert_int_equal(parse_exactly(strbuf_view(&wire)), -1);
	wire.n--;
	parser.in_stream = in_stream;
	assert_int_equal(pgoutput_parse(&parser, strbuf_view(&wire), &m, &err), 0);
}

static void begin_and_commit(void **state)
{
	wire_begin(&wire, 0x153A978, 4000000000u);
	check_bounds(0);
	assert_int_equal(m.kind, 'B');
	assert_int_equal(m.lsn, 0x153A978);
	assert_int_equal(m.xid, 4000000000u); /* unsigned */
	assert_int_equal(m.time, INT64_C(946684800000000));

	wire.n = 0;
	wire_commit(&wire, 0x10, 0x20);
	check_bounds(0);
	assert_int_equal(m.lsn, 0x10);
	assert_int_equal(m.end_lsn, 0x20);
}

static void a_relation(void **state)
{
	wire_relation(&wire, 3000000000u, "users", 'd');
	check_bounds(0);
	assert_int_equal(m.oid, 3000000000u);
	assert_true(str_eq(m.schema, STR("public")));
	assert_true(str_eq(m.name, STR("users")));
	assert_int_equal(m.n, 2);
	assert_true(m.cols[0].key);
	assert_false(m.cols[1].key);
	assert_int_equal(m.cols[1].type, 25);
	assert_int_equal(m.cols[1].typmod, -1);
}

static void rows(void **state)
{
	wire_row(&wire, 'I', 7);
	wire_tuple(&wire, 'N', "1", NULL);
	check_bounds(0);
	assert_null(m.old);
	assert_int_equal(m.new[0].kind, VALUE_TEXT);
	assert_true(str_eq(value_str(&m.new[0]), STR("1")));
	assert_int_equal(m.new[1].kind, VALUE_NULL);

	wire.n = 0;
	wire_row(&wire, 'U', 7);
	wire_tuple(&wire, 'K', "1", NULL);
	wire_tuple(&wire, 'N', "2", "\1");
	check_bounds(0);
	assert_int_equal(m.old_kind, 'K');
	assert_true(str_eq(value_str(&m.old[0]), STR("1")));
	assert_true(str_eq(value_str(&m.new[0]), STR("2")));
	assert_int_equal(m.new[1].kind, VALUE_UNCHANGED);

	wire.n = 0;
	wire_row(&wire, 'D', 7);
	wire_tuple(&wire, 'O', "1", "x");
	check_bounds(0);
	assert_null(m.new);
	assert_int_equal(m.old_kind, 'O');
}

static void a_row_in_binary(void **state)
{
	wire_row(&wire, 'I', 7);
	wire_u8(&wire, 'N');
	wire_u16(&wire, 1);
	wire_u8(&wire, 'b');
	wire_u32(&wire, 4);
	wire_u32(&wire, 42);
	check_bounds(0);
	assert_int_equal(m.new[0].kind, VALUE_BINARY);
	assert_int_equal(m.new[0].n, 4);
}

static void truncate_of_several_relations(void **state)
{
	wire_u8(&wire, 'T');
	wire_u32(&wire, 2);
	wire_u8(&wire, 3);
	wire_u32(&wire, 16384);
	wire_u32(&wire, 4294967295u);
	check_bounds(0);
	assert_int_equal(m.n, 2);
	assert_int_equal(m.flags, 3);
	assert_int_equal(m.oids[1], 4294967295u);
}

static void type_origin_and_message(void **state)
{
	wire_u8(&wire, 'Y');
	wire_u32(&wire, 16530);
	wire_z(&wire, "");
	wire_z(&wire, "int4");
	check_bounds(0);
	assert_int_equal(m.oid, 16530);

	wire.n = 0;
	wire_u8(&wire, 'O');
	wire_u64(&wire, 77);
	wire_z(&wire, "upstream");
	check_bounds(0);
	assert_true(str_eq(m.name, STR("upstream")));

	wire.n = 0;
	wire_u8(&wire, 'M');
	wire_u8(&wire, 1);
	wire_u64(&wire, 99);
	wire_z(&wire, "pfx");
	wire_u32(&wire, 5);
	strbuf_lit(&wire, "he\0lo");
	check_bounds(0);
	assert_int_equal(m.lsn, 99);
	assert_int_equal(m.content.n, 5);
}

static void streamed_blocks_carry_an_xid(void **state)
{
	wire_u8(&wire, 'S');
	wire_u32(&wire, 800);
	wire_u8(&wire, 1);
	check_bounds(0);
	assert_int_equal(m.xid, 800);

	wire.n = 0;
	wire_u8(&wire, 'I');
	wire_u32(&wire, 801); /* the subtransaction */
	wire_u32(&wire, 7);
	wire_tuple(&wire, 'N', "1", "x");
	check_bounds(0);
	assert_int_equal(m.xid, 801);
	assert_int_equal(m.oid, 7);

	wire.n = 0;
	wire_u8(&wire, 'E');
	check_bounds(0);
	assert_false(parser.in_stream);
}

static void streamed_ends(void **state)
{
	wire_u8(&wire, 'c');
	wire_u32(&wire, 800);
	wire_u8(&wire, 0);
	wire_u64(&wire, 1);
	wire_u64(&wire, 2);
	wire_u64(&wire, 3);
	check_bounds(0);
	assert_int_equal(m.end_lsn, 2);

	wire.n = 0;
	wire_u8(&wire, 'A');
	wire_u32(&wire, 800);
	wire_u32(&wire, 801);
	wire_u64(&wire, 5); /* LSN and time: only with streaming=parallel */
	wire_u64(&wire, 6);
	check_bounds(16);
	assert_int_equal(m.subxid, 801);
	assert_int_equal(m.lsn, 5);
}

static void prepared_transactions(void **state)
{
	for (const char *kind = "bPpKr"; *kind; kind++) {
		wire.n = 0;
		wire_u8(&wire, *kind);
		if (*kind != 'b')
			wire_u8(&wire, 0);
		wire_u64(&wire, 11);
		wire_u64(&wire, 12);
		if (*kind == 'r')
			wire_u64(&wire, 13);
		wire_u64(&wire, 14);
		wire_u32(&wire, 900);
		wire_z(&wire, "gid-1");
		check_bounds(0);
		assert_int_equal(m.kind, *kind);
		assert_int_equal(m.xid, 900);
		assert_int_equal(m.end_lsn, 12);
		assert_true(str_eq(m.gid, STR("gid-1")));
	}
}

static void what_is_no_message_is_refused(void **state)
{
	assert_int_equal(parse_exactly(STR("")), -1);
	assert_int_equal(parse_exactly(STR("Zoo")), -1);
	assert_int_equal(parse_exactly(STR("\xff")), -1);
	/* a tuple that promises more columns than there are bytes */
	assert_int_equal(parse_exactly(STR("I\0\0\0\7N\xff\xff")), -1);
	/* an insert with an old tuple */
	wire_row(&wire, 'I', 7);
	wire_tuple(&wire, 'K', "1", NULL);
	wire_tuple(&wire, 'N', "1", NULL);
	assert_int_equal(parse_exactly(strbuf_view(&wire)), -1);
	/* a truncate of four thousand million relations */
	assert_int_equal(parse_exactly(STR("T\xff\xff\xff\xff\0")), -1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin_test, end_test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(begin_and_commit),
		TEST(a_relation),
		TEST(rows),
		TEST(a_row_in_binary),
		TEST(truncate_of_several_relations),
		TEST(type_origin_and_message),
		TEST(streamed_blocks_carry_an_xid),
		TEST(streamed_ends),
		TEST(prepared_transactions),
		TEST(what_is_no_message_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
