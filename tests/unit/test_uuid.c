/* An event's UUID: the same for the same event, another for any other. */
#include "test.h"

#include "event/uuid.h"

static const struct source app = { .db = STR("app"), .system_id = 7312345678901234567 };
static const struct position place = { 0x0123456789ABCDEF, 0x89ABCDEF };

static const char *uuid(const struct source *source, struct position p)
{
	static char text[4][UUID_LEN + 1];
	static size_t turn;
	char *out = text[turn++ % 4];

	uuid_print(source, p, out);
	return out;
}

/* The layout is a promise: consumers keep these. */
static void test_layout(void **state)
{
	const char *id = uuid(&app, place);

	/* LSN 0123456789ABCDE|F, version 8, then F in bits 5 to 2 and the ordinal behind it */
	assert_memory_equal(id, "01234567-89ab-8cde-", 19);
	assert_string_equal(id, "01234567-89ab-8cde-be26-af37bc98318b");
	assert_string_equal(uuid(&app, (struct position){ 0, 0 }),
			    "00000000-0000-8000-8000-00000098318b");
}

static void test_same(void **state)
{
	struct source copy = { .db = { "app", 3 }, .system_id = app.system_id, .slot = STR("x") };

	assert_string_equal(uuid(&app, place), uuid(&copy, place));
}

static void test_different(void **state)
{
	static const struct source other_db = { .db = STR("apq"), .system_id = 7312345678901234567 };
	static const struct source other_system = { .db = STR("app"), .system_id = 42 };

	assert_string_not_equal(uuid(&app, place), uuid(&other_db, place));
	assert_string_not_equal(uuid(&app, place), uuid(&other_system, place));
	for (int bit = 0; bit < 64; bit++) {
		struct position p = { place.lsn ^ UINT64_C(1) << bit, place.ordinal };

		assert_string_not_equal(uuid(&app, place), uuid(&app, p));
	}
	for (int bit = 0; bit < 32; bit++) {
		struct position p = { place.lsn, place.ordinal ^ 1u << bit };

		assert_string_not_equal(uuid(&app, place), uuid(&app, p));
	}
}

static void test_order(void **state)
{
	struct position next = { place.lsn, place.ordinal + 1 }, later = { place.lsn + 1, 1 };

	assert_true(strcmp(uuid(&app, place), uuid(&app, next)) < 0);
	assert_true(strcmp(uuid(&app, next), uuid(&app, later)) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_different),
		cmocka_unit_test(test_order),
	};

	return cmocka_run_group_tests_name("uuid", tests, NULL, NULL);
}
