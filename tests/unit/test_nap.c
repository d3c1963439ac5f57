/* How long the reader naps, beside a server that sends a row each 4 us, and for 2 of 5 ms none. */
#include "test.h"

#include "core/nap.h"

#define MOST 40000
#define ROW 4

struct server {
	int64_t late;   /* what it sends was committed so long ago */
	int64_t room;   /* how long it can go on sending while nobody reads */
	int64_t clock;  /* microseconds */
	int64_t worked; /* of these; it also waits */
};

/* A while in which nobody reads. */
static void pass(struct nap *n, struct server *s, int64_t us)
{
	int64_t end = s->clock + us, sent = 0;

	for (; s->clock < end; s->clock += ROW) {
		if (sent >= s->room)
			continue;
		s->worked += ROW;
		if (s->worked % 5000 >= 3000)
			continue;
		sent += ROW;
		nap_heard(n, s->clock, s->clock - s->late);
	}
}

/* The part of the time napped that went into naps longer than this, in thousandths. */
static int longer_than(struct server s, int64_t us)
{
	struct nap n = { 0 };
	int64_t all = 0, longer = 0;

	for (int i = 0; i < 2000; i++) {
		int64_t nap = nap_next(&n, MOST);

		pass(&n, &s, nap);
		pass(&n, &s, 100); /* what waited is being read */
		if (i < 200)
			continue;
		all += nap;
		longer += nap > us ? nap : 0;
	}
	return (int)(1000 * longer / all);
}

static void naps_grow_behind_a_backlog(void **state)
{
	struct server s = { .late = INT64_C(3600000000), .room = INT64_MAX };

	assert_int_equal(longer_than(s, MOST - 1), 1000);
}

static void a_server_that_runs_out_of_room_is_not_kept_waiting(void **state)
{
	struct server s = { .late = INT64_C(3600000000), .room = 4000 };

	assert_true(longer_than(s, 1000) > 500);
	assert_true(longer_than(s, 4 * s.room) < 50);
}

static void a_stream_that_is_not_late_naps_as_shortly_as_can_be(void **state)
{
	struct server s = { .late = 1000, .room = INT64_MAX };

	assert_int_equal(longer_than(s, 200), 0);
}

static void a_nap_is_a_part_of_what_the_stream_is_late(void **state)
{
	struct server s = { .late = 160000, .room = INT64_MAX };

	assert_int_equal(longer_than(s, 10000), 0);
	assert_int_equal(longer_than(s, 9999), 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(naps_grow_behind_a_backlog),
		cmocka_unit_test(a_server_that_runs_out_of_room_is_not_kept_waiting),
		cmocka_unit_test(a_stream_that_is_not_late_naps_as_shortly_as_can_be),
		cmocka_unit_test(a_nap_is_a_part_of_what_the_stream_is_late),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
