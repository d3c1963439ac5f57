/* Calendar, PostgreSQL's text forms, ISO 8601. */
#include "test.h"

#include "base/time.h"

static struct strbuf out;

static const char *printed(void)
{
	return strbuf_cstr(&out);
}

static void test_dates(void **state)
{
	static const struct {
		const char *text;
		int64_t days;
		const char *iso;
	} rows[] = {
		{ "1970-01-01", 0, "1970-01-01" },
		{ "1969-12-31", -1, "1969-12-31" },
		{ "2000-02-29", 11016, "2000-02-29" },
		{ "1900-03-01", -25508, "1900-03-01" },
		{ "2026-11-21", 20778, "2026-11-21" },
		{ "0001-01-01", -719162, "0001-01-01" },
		{ "0001-12-31 BC", -719163, "0000-12-31" },
		{ "0044-03-15 BC", -735160, "-0043-03-15" },
		{ "4713-01-01 BC", -2440550, "-4712-01-01" },
		{ "10000-01-01", 2932897, "+10000-01-01" },
		{ "5874897-12-31", 2145042905, "+5874897-12-31" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int64_t days = 0;

		assert_true(time_parse_date(str_c(rows[i].text), &days));
		assert_int_equal(days, rows[i].days);
		out.n = 0;
		time_print_date(&out, days);
		assert_string_equal(printed(), rows[i].iso);
	}
}

static void test_no_dates(void **state)
{
	static const char *const texts[] = {
		"",
		"infinity",
		"2021-02-29",
		"1900-02-29",
		"2021-13-01",
		"2021-00-01",
		"2021-01-00",
		"2021-04-31",
		"0000-01-01",
		"21-01-01",
		"2021-1-1",
		"2021-01-01 ",
		"2021-01-01BC",
		"2021-01-01 BC BC",
		" BC",
		"-2021-01-01",
		"2021/01/01",
		"10000000000-01-01",
	};
	int64_t days;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (time_parse_date(str_c(texts[i]), &days))
			fail_msg("\"%s\" was read as a date", texts[i]);
}

/* Four hundred years day by day: each has its own number, one more than the day before. */
static void test_every_day(void **state)
{
	struct time_date before = time_civil(-1);

	for (int64_t day = 0; day < 146097; day++) {
		struct time_date d = time_civil(day);

		assert_int_equal(time_days(d), day);
		assert_true(d.day == before.day + 1 ||
			    (d.day == 1 && before.day >= 28 && d.month != before.month));
		before = d;
	}
	assert_int_equal(before.year, 2369);
}

static void test_timestamps(void **state)
{
	static const struct {
		const char *text;
		int64_t us;
		const char *iso;
	} rows[] = {
		{ "1970-01-01 00:00:00", 0, "1970-01-01T00:00:00" },
		{ "1969-12-31 23:59:59.999999", -1, "1969-12-31T23:59:59.999999" },
		{ "2020-01-02 03:04:05.678+00", 1577934245678000, "2020-01-02T03:04:05.678" },
		{ "2020-01-02 03:04:05+05:30", 1577914445000000, "2020-01-01T21:34:05" },
		{ "2020-01-02 03:04:05.1-08:00:30", 1577963075100000, "2020-01-02T11:04:35.1" },
		{ "0044-03-15 12:00:00+00 BC", -63517780800000000, "-0043-03-15T12:00:00" },
		{ "4714-11-24 00:00:00 BC", -210866803200000000, "-4713-11-24T00:00:00" },
		{ "294247-01-10 04:00:54.775807", INT64_MAX, "+294247-01-10T04:00:54.775807" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int64_t us = 0;

		assert_true(time_parse_timestamp(str_c(rows[i].text), &us));
		assert_int_equal(us, rows[i].us);
		out.n = 0;
		time_print(&out, us, 'T', TIME_TRIM);
		assert_string_equal(printed(), rows[i].iso);
	}
}

static void test_no_timestamps(void **state)
{
	static const char *const texts[] = {
		"",
		"infinity",
		"-infinity",
		"2020-01-02",
		"2020-01-02 03:04",
		"2020-01-02T03:04:05",
		"2020-01-02 03:04:05.",
		"2020-01-02 03:04:05.1234567",
		"2020-01-02 03:60:05",
		"2020-01-02 03:04:05 ",
		"2020-01-02 03:04:05+",
		"2020-01-02 03:04:05+1",
		"2020-01-02 03:04:05+01:",
		"2020-01-02 03:04:05Z",
		"294247-01-10 04:00:54.775808",
		"294276-12-31 23:59:59.999999",
		"999999999-01-01 00:00:00",
	};
	int64_t us;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (time_parse_timestamp(str_c(texts[i]), &us))
			fail_msg("\"%s\" was read as a timestamp", texts[i]);
}

static void test_infinite(void **state)
{
	assert_int_equal(time_infinite(STR("infinity")), 1);
	assert_int_equal(time_infinite(STR("-infinity")), -1);
	assert_int_equal(time_infinite(STR("Infinity")), 0);
	assert_int_equal(time_infinite(STR("")), 0);
}

static void test_clocks(void **state)
{
	int32_t east = -1;
	int64_t us = -1;

	assert_true(time_parse_clock(STR("00:00:00"), &us, &east));
	assert_int_equal(us, 0);
	assert_int_equal(east, 0);
	assert_true(time_parse_clock(STR("10:11:12.5+02"), &us, &east));
	assert_int_equal(us, 36672500000);
	assert_int_equal(east, 7200);
	assert_true(time_parse_clock(STR("24:00:00-15:59:59"), &us, &east));
	assert_int_equal(us, TIME_DAY);
	assert_int_equal(east, -57599);
	assert_false(time_parse_clock(STR("24:00:00.000001"), &us, &east));
	assert_false(time_parse_clock(STR("100:00:00"), &us, &east));
	assert_false(time_parse_clock(STR("1:00:00"), &us, &east));
}

static void test_digits(void **state)
{
	static const struct {
		int64_t us;
		int digits;
		const char *text;
	} rows[] = {
		{ 0, TIME_TRIM, "00:00:00" }, { 0, 0, "00:00:00" },
		{ 0, 6, "00:00:00.000000" },  { 1, TIME_TRIM, "00:00:00.000001" },
		{ 1, 3, "00:00:00.000" },     { 999999, 3, "00:00:00.999" },
		{ 999999, 0, "00:00:00" },    { 120000, TIME_TRIM, "00:00:00.12" },
		{ 120000, 1, "00:00:00.1" },  { TIME_DAY, TIME_TRIM, "24:00:00" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		out.n = 0;
		time_print_clock(&out, rows[i].us, rows[i].digits);
		assert_string_equal(printed(), rows[i].text);
	}
}

/* The text of the last time is remembered: only for the same time in the same form. */
static void test_one_after_another(void **state)
{
	static const struct {
		int64_t us;
		char separator;
		int digits;
		const char *text;
	} rows[] = {
		{ 0, 'T', 6, "1970-01-01T00:00:00.000000" },
		{ 0, 'T', 6, "1970-01-01T00:00:00.000000" },
		{ 0, ' ', 6, "1970-01-01 00:00:00.000000" },
		{ 0, ' ', 0, "1970-01-01 00:00:00" },
		{ -1, ' ', 0, "1969-12-31 23:59:59" },
		{ -1, ' ', TIME_TRIM, "1969-12-31 23:59:59.999999" },
		{ INT64_MAX, 'T', 6, "+294247-01-10T04:00:54.775807" },
		{ INT64_MIN, 'T', 6, "-290308-12-21T19:59:05.224192" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		out.n = 0;
		time_print(&out, rows[i].us, rows[i].separator, rows[i].digits);
		assert_string_equal(printed(), rows[i].text);
	}
}

static void test_intervals(void **state)
{
	static const struct {
		const char *text;
		struct time_interval iv;
	} rows[] = {
		{ "00:00:00", { 0, 0, 0 } },
		{ "1 year 2 mons 3 days 04:05:06.789", { 14, 3, 14706789000 } },
		{ "10 mons 3 days -04:05:06.789", { 10, 3, -14706789000 } },
		{ "-1 years -2 mons +3 days -00:00:00.5", { -14, 3, -500000 } },
		{ "1 mon -1 days +04:05:06", { 1, -1, 14706000000 } },
		{ "-178000000 years", { -2136000000, 0, 0 } },
		{ "1 day", { 0, 1, 0 } },
		{ "2562047788:00:54.775807", { 0, 0, INT64_MAX } },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct time_interval iv = { -1, -1, -1 };

		assert_true(time_parse_interval(str_c(rows[i].text), &iv));
		assert_int_equal(iv.months, rows[i].iv.months);
		assert_int_equal(iv.days, rows[i].iv.days);
		assert_int_equal(iv.us, rows[i].iv.us);
	}
}

static void test_no_intervals(void **state)
{
	static const char *const texts[] = {
		"",
		"infinity",
		"1",
		"1 day ",
		"1 day x",
		"day",
		"1 week",
		"1 days 1",
		"P1D",
		"2562047788:00:54.775808",
		"2562047789:00:00",
		"1 day 1 day 1 day 1 day 1 day",
	};
	struct time_interval iv;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (time_parse_interval(str_c(texts[i]), &iv))
			fail_msg("\"%s\" was read as an interval", texts[i]);
}

static int release(void **state)
{
	strbuf_release(&out);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dates),
		cmocka_unit_test(test_no_dates),
		cmocka_unit_test(test_every_day),
		cmocka_unit_test(test_timestamps),
		cmocka_unit_test(test_no_timestamps),
		cmocka_unit_test(test_infinite),
		cmocka_unit_test(test_clocks),
		cmocka_unit_test(test_digits),
		cmocka_unit_test(test_one_after_another),
		cmocka_unit_test(test_intervals),
		cmocka_unit_test(test_no_intervals),
	};

	return cmocka_run_group_tests_name("time", tests, NULL, release);
}
