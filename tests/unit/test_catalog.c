/* What a snapshot of the server's could see. */
#include "test.h"

#include "pg/catalog.h"

static bool saw(const char *snapshot, uint32_t xid)
{
	return catalog_saw(str_c(snapshot), xid);
}

static void what_ran_or_came_later_was_not_seen(void **state)
{
	assert_true(saw("10:20:10,14,15", 9));
	assert_true(saw("10:20:10,14,15", 13));
	assert_true(saw("10:20:10,14,15", 19));
	assert_false(saw("10:20:10,14,15", 10));
	assert_false(saw("10:20:10,14,15", 15));
	assert_false(saw("10:20:10,14,15", 20));
	assert_true(saw("20:20:", 19));
	assert_false(saw("20:20:", 20));
	assert_false(saw("20:20:", 0x70000000));
	assert_false(saw("", 5));
}

static void xids_wrap_around(void **state)
{
	/* 3 epochs and 5: the last ones of the epoch before were seen */
	assert_true(saw("12884901893:12884901893:", 4294967290u));
	assert_true(saw("12884901893:12884901893:", 4));
	assert_false(saw("12884901893:12884901893:", 5));
	assert_false(saw("12884901880:12884901893:12884901880", 4294967288u));
	assert_true(saw("12884901880:12884901893:12884901880", 4294967289u));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_ran_or_came_later_was_not_seen),
		cmocka_unit_test(xids_wrap_around),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
