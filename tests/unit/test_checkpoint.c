/* The checkpoint: what may be confirmed, and when. */
#include "test.h"

#include "core/checkpoint.h"

static void nothing_moves_before_every_output_has_taken(void **state)
{
	struct checkpoint c = { .confirmed = 5 };
	uint64_t given[2] = { 1, 1 }, one[2] = { 1, 0 }, both[2] = { 1, 1 };

	checkpoint_init(&c, 2);
	checkpoint_push(&c, 100, given);
	assert_false(checkpoint_advance(&c, one));
	assert_int_equal(c.confirmed, 5);
	assert_true(checkpoint_advance(&c, both));
	assert_int_equal(c.confirmed, 100);
	assert_true(checkpoint_empty(&c));
	checkpoint_release(&c);
}

static void a_keepalive_waits_for_the_commits_before_it(void **state)
{
	struct checkpoint c = { 0 };
	uint64_t given = 1, none = 0;

	checkpoint_init(&c, 1);
	checkpoint_push(&c, 100, &given);
	checkpoint_push(&c, 900, &given); /* a keepalive: nothing new was given */
	assert_int_equal(c.n, 1);
	checkpoint_advance(&c, &none);
	assert_int_equal(c.confirmed, 0);
	checkpoint_advance(&c, &given);
	assert_int_equal(c.confirmed, 900);
	checkpoint_release(&c);
}

static void an_idle_position_passes_at_once(void **state)
{
	struct checkpoint c = { 0 };
	uint64_t seven = 7;

	checkpoint_init(&c, 1);
	checkpoint_push(&c, 300, &seven);
	assert_true(checkpoint_advance(&c, &seven));
	assert_int_equal(c.confirmed, 300);
	checkpoint_release(&c);
}

static void it_never_goes_back(void **state)
{
	struct checkpoint c = { .confirmed = 500 };
	uint64_t one = 1;

	checkpoint_init(&c, 1);
	checkpoint_push(&c, 100, &one);
	assert_false(checkpoint_advance(&c, &one));
	assert_int_equal(c.confirmed, 500);
	checkpoint_release(&c);
}

static void commits_leave_in_order_over_many_rounds(void **state)
{
	struct checkpoint c = { 0 };
	uint64_t given = 0, taken = 0;

	checkpoint_init(&c, 1);
	for (uint64_t round = 1; round <= 1000; round++) {
		for (int i = 0; i < 3; i++) {
			given++;
			checkpoint_push(&c, given * 10, &given);
		}
		taken += 2;
		checkpoint_advance(&c, &taken);
		assert_int_equal(c.confirmed, taken * 10);
		assert_int_equal(c.n, given - taken);
	}
	checkpoint_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_moves_before_every_output_has_taken),
		cmocka_unit_test(a_keepalive_waits_for_the_commits_before_it),
		cmocka_unit_test(an_idle_position_passes_at_once),
		cmocka_unit_test(it_never_goes_back),
		cmocka_unit_test(commits_leave_in_order_over_many_rounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
