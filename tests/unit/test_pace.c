/* When a subscription looks, beside a store whose events come as the cases say. */
#include "test.h"

#include "core/pace.h"

#define MOST 5000

static int64_t now;

static struct pace awake(bool listens)
{
	now = 1000000;
	return (struct pace){ .most = MOST, .listens = listens, .busy = now };
}

/* Goes on to the next look; returns after how many milliseconds it was. */
static int64_t look(struct pace *p)
{
	int64_t passed = p->next > now ? p->next - now : 0;

	now += passed;
	pace_look(p, now);
	return passed;
}

static int64_t look_in_vain(struct pace *p)
{
	int64_t passed = look(p);

	pace_nothing(p, now);
	return passed;
}

static void a_full_page_is_followed_at_once(void **state)
{
	struct pace p = awake(true);

	look(&p);
	pace_found(&p, 100, true, now);
	assert_int_equal(look(&p), 0);
}

static void few_events_are_followed_sooner_than_many(void **state)
{
	struct pace p = awake(true);

	look(&p);
	pace_found(&p, 1, false, now);
	assert_int_equal(look(&p), 1);
	pace_found(&p, 12, false, now);
	assert_int_equal(look(&p), 12);
	pace_found(&p, 99, false, now);
	assert_int_equal(look(&p), 32);
}

static void the_store_is_told_before_the_look_that_sleep_follows(void **state)
{
	struct pace p = awake(true);

	assert_int_equal(look_in_vain(&p), 0);
	assert_int_equal(look_in_vain(&p), 1);
	assert_true(pace_look(&p, now));
	pace_nothing(&p, now);
	assert_int_equal(p.next - now, MOST);

	look(&p);
	pace_nothing(&p, now);
	assert_true(pace_look(&p, now)); /* it does not stay told */
}

static void the_store_may_lower_a_sleep(void **state)
{
	struct pace p = awake(true);

	look_in_vain(&p);
	look_in_vain(&p);
	assert_true(pace_look(&p, now));
	p.sleep = 30;
	pace_nothing(&p, now);
	assert_int_equal(p.next - now, 30);
}

static void who_is_woken_looks_at_once(void **state)
{
	struct pace p = awake(true);

	for (int i = 0; i < 3; i++)
		look_in_vain(&p);
	now += 1000;
	pace_woken(&p, now);
	assert_int_equal(look(&p), 0);
}

static void who_is_woken_does_not_say_that_it_sleeps(void **state)
{
	struct pace p = awake(true);

	look_in_vain(&p);
	look_in_vain(&p);
	pace_woken(&p, now);
	assert_false(pace_look(&p, now));
}

/* How many looks there are in two seconds in which others append each millisecond, and how many of
 * them say first that we sleep. */
static int looks_for_others(struct pace *p, int *tells)
{
	int64_t end = now + 2000;
	bool told = false;
	int looks = 0;

	*tells = 0;

	for (; now < end; now++) {
		if (told && now % 2)
			pace_woken(p, now);
		if (now < p->next)
			continue;
		told = pace_look(p, now);
		pace_nothing(p, now);
		*tells += told;
		looks++;
	}
	return looks;
}

static void who_is_woken_by_events_of_others_looks_each_32_ms(void **state)
{
	struct pace p = awake(true);
	int looks, tells;

	looks_for_others(&p, &tells);
	looks = looks_for_others(&p, &tells);
	assert_in_range(looks, 56, 64);
	assert_in_range(tells, 1, 2);
}

static void who_is_woken_no_more_sleeps_again(void **state)
{
	struct pace p = awake(true);
	int tells, looks = 0;

	looks_for_others(&p, &tells);
	while (p.sleep < MOST) {
		look_in_vain(&p);
		assert_true(looks++ < 40);
	}
}

static void an_event_of_its_own_ends_that(void **state)
{
	struct pace p = awake(true);
	int tells;

	looks_for_others(&p, &tells);
	look(&p);
	pace_found(&p, 1, false, now);
	now += 1000;
	pace_woken(&p, now);
	assert_true(p.next <= now);
	assert_false(pace_look(&p, now));
}

static void sleeps_double_where_nobody_wakes(void **state)
{
	struct pace p = awake(false);
	int64_t expected = 1;

	look_in_vain(&p);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(look_in_vain(&p), expected);
		expected = expected * 2 < MOST ? expected * 2 : MOST;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_page_is_followed_at_once),
		cmocka_unit_test(few_events_are_followed_sooner_than_many),
		cmocka_unit_test(the_store_is_told_before_the_look_that_sleep_follows),
		cmocka_unit_test(the_store_may_lower_a_sleep),
		cmocka_unit_test(who_is_woken_looks_at_once),
		cmocka_unit_test(who_is_woken_does_not_say_that_it_sleeps),
		cmocka_unit_test(who_is_woken_by_events_of_others_looks_each_32_ms),
		cmocka_unit_test(who_is_woken_no_more_sleeps_again),
		cmocka_unit_test(an_event_of_its_own_ends_that),
		cmocka_unit_test(sleeps_double_where_nobody_wakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
