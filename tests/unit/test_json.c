/* JSON taken apart, and UTF-8 told from what is none, wherever in a text the hard part is. */
#include "test.h"

#include "base/json.h"
#include "base/utf8.h"

#include <string.h>

static void expect_member(struct str *inside, const char *key, const char *value)
{
	struct str k, v;

	assert_true(json_next(inside, &k, &v));
	assert_true(str_eq(k, str_c(key)));
	assert_true(str_eq(v, str_c(value)));
}

/* Quotes and commas inside strings end nothing; a backslash hides just what is behind it. */
static void test_strings(void **state)
{
	struct str inside = json_inside(STR("{\"a\": \"x\\\"y,\", \"b\\\\\": \"\\\\\", "
					    "\"c\": {\"d\": \"}\\\"\"}, \"\": \"\"}"));
	struct str key, value;

	expect_member(&inside, "\"a\"", "\"x\\\"y,\"");
	expect_member(&inside, "\"b\\\\\"", "\"\\\\\"");
	expect_member(&inside, "\"c\"", "{\"d\": \"}\\\"\"}");
	expect_member(&inside, "\"\"", "\"\"");
	assert_false(json_next(&inside, &key, &value));
}

/* A text that no quote ends goes to its end, and not beyond. */
static void test_no_end(void **state)
{
	static const char *const broken[] = { "\"", "\"a", "\"a\\", "\"a\\\"", "\"a\\\\\\\"" };

	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		struct str all = str_c(broken[i]), inside = all, key, value;

		assert_true(json_next(&inside, &key, &value));
		assert_ptr_equal(value.p, all.p);
		assert_int_equal(value.n, all.n);
		assert_int_equal(inside.n, 0);
	}
}

/* Eight bytes are looked at together: each place among ASCII, and each length, is tried. */
static void test_utf8(void **state)
{
	char text[24];

	for (size_t n = 2; n <= sizeof(text); n++)
		for (size_t at = 0; at + 2 <= n; at++) {
			memset(text, 'a', sizeof(text));
			assert_true(utf8_valid((struct str){ text, n }));
			memcpy(text + at, "\xc3\xa9", 2);
			assert_true(utf8_valid((struct str){ text, n }));
			text[at + 1] = 'a';
			assert_false(utf8_valid((struct str){ text, n }));
		}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_no_end),
		cmocka_unit_test(test_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
