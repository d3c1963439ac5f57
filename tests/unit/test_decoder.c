/* From messages to events: relations, ordinals, unchanged values, transactions. */
#include "test.h"
#include "wire.h"

#include "decode/decoder.h"

#include <stdio.h>

struct seen {
	enum action action;
	struct position position;
	char table[16];
	char id[16];
	enum value_kind body_kind;
	char body[16];
	size_t origin_n;
};

static struct decoder d;
static struct source source;
static struct strbuf wire;
static struct err err;
static struct seen seen[32];
static size_t nseen;
static uint64_t committed;
static uint16_t wanted;

static int on_relation(void *user, struct relation *rel, struct arena *arena, struct err *e)
{
	rel->wanted = wanted;
	return 0;
}

static void copy(char *out, size_t size, struct str s)
{
	size_t n = s.n < size - 1 ? s.n : size - 1;

	if (n)
		memcpy(out, s.p, n);
	out[n] = '\0';
}

static int on_event(void *user, const struct event *e, struct err *unused)
{
	struct seen *s = &seen[nseen];
	const struct value *row = e->new ? e->new : e->old;

	if (e->action == ACTION_BEGIN || e->action == ACTION_COMMIT)
		return 0;
	nseen++;
	*s = (struct seen){ .action = e->action, .position = e->position, .origin_n = e->origin.n };
	if (e->rel)
		copy(s->table, sizeof(s->table), e->rel->name);
	if (row) {
		copy(s->id, sizeof(s->id), value_str(&row[0]));
		s->body_kind = row[1].kind;
		copy(s->body, sizeof(s->body), value_str(&row[1]));
	}
	return 0;
}

static int on_commit(void *user, uint64_t end_lsn, struct err *unused)
{
	committed = end_lsn;
	return 0;
}

static const struct decoder_ops ops = { on_relation, on_event, on_commit };

static int begin_test(void **state)
{
	decoder_init(&d, &source, &ops, NULL);
	nseen = 0;
	committed = 0;
	wanted = ACTIONS_ALL;
	return 0;
}

static int end_test(void **state)
{
	decoder_release(&d);
	strbuf_release(&wire);
	return 0;
}

/* Feeds what is in `wire` as one message. */
static int feed(void)
{
	int result = decoder_message(&d, 1, 2, strbuf_view(&wire), &err);

	wire.n = 0;
	return result;
}

static void begin(uint64_t lsn)
{
	wire_begin(&wire, lsn, 700);
	assert_int_equal(feed(), 0);
}

static void commit(uint64_t lsn)
{
	wire_commit(&wire, lsn, lsn + 8);
	assert_int_equal(feed(), 0);
}

static void relation(uint32_t oid, const char *name, char identity)
{
	wire_relation(&wire, oid, name, identity);
	assert_int_equal(feed(), 0);
}

static void insert(uint32_t oid, const char *id, const char *body)
{
	wire_row(&wire, 'I', oid);
	wire_tuple(&wire, 'N', id, body);
	assert_int_equal(feed(), 0);
}

static void two_tables_take_turns(void **state)
{
	begin(100);
	relation(1, "a", 'd');
	insert(1, "1", "x");
	relation(2, "b", 'd');
	insert(2, "2", "y");
	insert(1, "3", "z");
	commit(100);
	begin(200);
	insert(1, "4", "second transaction, same session");
	commit(200);

	assert_int_equal(nseen, 4);
	assert_string_equal(seen[1].table, "b");
	assert_string_equal(seen[2].table, "a");
	assert_string_equal(seen[3].table, "a");
	assert_int_equal(seen[2].position.lsn, 100);
	assert_int_equal(seen[2].position.ordinal, 3);
	assert_int_equal(seen[3].position.lsn, 200);
	assert_int_equal(seen[3].position.ordinal, 1);
	assert_int_equal(committed, 208);
}

static void a_new_relation_message_replaces_the_old(void **state)
{
	begin(100);
	relation(1, "before", 'd');
	insert(1, "1", "x");
	relation(1, "after", 'd');
	insert(1, "2", "y");
	commit(100);
	assert_string_equal(seen[0].table, "before");
	assert_string_equal(seen[1].table, "after");
}

static void many_relations_are_kept_apart(void **state)
{
	char name[16];

	begin(100);
	for (uint32_t oid = 1; oid <= 1000; oid++) {
		snprintf(name, sizeof(name), "t%u", oid);
		relation(oid * 64, name, 'd');
	}
	insert(64, "1", "x");
	insert(64 * 777, "1", "x");
	assert_string_equal(seen[0].table, "t1");
	assert_string_equal(seen[1].table, "t777");
}

static void ordinals_count_what_nobody_wants(void **state)
{
	begin(100);
	wanted = 0;
	relation(1, "quiet", 'd');
	wanted = ACTIONS_ALL;
	relation(2, "loud", 'd');
	insert(1, "1", "x");
	insert(2, "2", "y");
	assert_int_equal(nseen, 1);
	assert_int_equal(seen[0].position.ordinal, 2);
}

static void unchanged_comes_from_a_full_old_row_only(void **state)
{
	begin(100);
	relation(1, "full", 'f');
	wire_row(&wire, 'U', 1);
	wire_tuple(&wire, 'O', "1", "large");
	wire_tuple(&wire, 'N', "2", "\1");
	assert_int_equal(feed(), 0);
	relation(2, "keyed", 'd');
	wire_row(&wire, 'U', 2);
	wire_tuple(&wire, 'K', "1", NULL);
	wire_tuple(&wire, 'N', "2", "\1");
	assert_int_equal(feed(), 0);

	assert_int_equal(seen[0].body_kind, VALUE_TEXT);
	assert_string_equal(seen[0].body, "large");
	assert_int_equal(seen[1].body_kind, VALUE_UNCHANGED);
}

static void truncate_is_an_event_for_each_table(void **state)
{
	begin(100);
	relation(1, "a", 'd');
	relation(2, "b", 'd');
	wire_u8(&wire, 'T');
	wire_u32(&wire, 2);
	wire_u8(&wire, 1);
	wire_u32(&wire, 1);
	wire_u32(&wire, 2);
	assert_int_equal(feed(), 0);
	assert_int_equal(nseen, 2);
	assert_string_equal(seen[1].table, "b");
	assert_int_equal(seen[1].position.ordinal, 2);
}

static void put_message(int flags, uint64_t lsn)
{
	wire_u8(&wire, 'M');
	wire_u8(&wire, flags);
	wire_u64(&wire, lsn);
	wire_z(&wire, "p");
	wire_u32(&wire, 1);
	strbuf_lit(&wire, "c");
}

static void messages_inside_and_outside(void **state)
{
	put_message(0, 90);
	assert_int_equal(feed(), 0);
	assert_int_equal(seen[0].position.lsn, 90);
	assert_int_equal(seen[0].position.ordinal, 0);
	assert_int_equal(committed, 90); /* delivered and done with */

	begin(100);
	put_message(1, 95);
	assert_int_equal(feed(), 0);
	assert_int_equal(seen[1].position.lsn, 100);
	assert_int_equal(seen[1].position.ordinal, 1);
	assert_int_equal(committed, 90);
}

static void case_28_a_stray_stream_abort_is_ignored(void **state)
{
	wire_u8(&wire, 'A');
	wire_u32(&wire, 12345);
	wire_u32(&wire, 12345);
	assert_int_equal(feed(), 0);
	assert_int_equal(nseen, 0);
}

static void case_30_an_origin_does_not_leak(void **state)
{
	begin(100);
	wire_u8(&wire, 'O');
	wire_u64(&wire, 1);
	wire_z(&wire, "upstream");
	assert_int_equal(feed(), 0);
	relation(1, "a", 'd');
	insert(1, "1", "x");
	commit(100);
	begin(200);
	insert(1, "2", "y");
	commit(200);
	assert_int_equal(seen[0].origin_n, 8);
	assert_int_equal(seen[1].origin_n, 0);
}

static void what_does_not_fit_is_refused(void **state)
{
	/* a row for a relation never described */
	begin(100);
	wire_row(&wire, 'I', 9);
	wire_tuple(&wire, 'N', "1", "x");
	assert_int_equal(feed(), -1);
	/* a row with another number of columns than its relation */
	relation(1, "a", 'd');
	wire_row(&wire, 'I', 1);
	wire_u8(&wire, 'N');
	wire_u16(&wire, 1);
	wire_u8(&wire, 'n');
	assert_int_equal(feed(), -1);
	/* a begin inside of a transaction, a commit outside */
	wire_begin(&wire, 1, 1);
	assert_int_equal(feed(), -1);
	commit(100);
	wire_commit(&wire, 1, 2);
	assert_int_equal(feed(), -1);
	/* modes that were not asked for */
	wire_u8(&wire, 'S');
	wire_u32(&wire, 1);
	wire_u8(&wire, 1);
	assert_int_equal(feed(), -1);
}

static void text_that_is_not_utf8_is_made_so_where_the_server_does_not_vouch(void **state)
{
	d.check_utf8 = true;
	begin(100);
	relation(1, "a", 'd');
	insert(1, "1",
	       "a\xff"
	       "b");
	assert_string_equal(seen[0].body, "a\xef\xbf\xbd"
					  "b");
	assert_string_equal(seen[0].id, "1");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, begin_test, end_test)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(two_tables_take_turns),
		TEST(a_new_relation_message_replaces_the_old),
		TEST(many_relations_are_kept_apart),
		TEST(ordinals_count_what_nobody_wants),
		TEST(unchanged_comes_from_a_full_old_row_only),
		TEST(truncate_is_an_event_for_each_table),
		TEST(messages_inside_and_outside),
		TEST(case_28_a_stray_stream_abort_is_ignored),
		TEST(case_30_an_origin_does_not_leak),
		TEST(what_does_not_fit_is_refused),
		TEST(text_that_is_not_utf8_is_made_so_where_the_server_does_not_vouch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
