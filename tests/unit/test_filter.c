#include "event/event.h"
#include "flow/filter.h"
#include "test.h"

static struct arena arena;
static struct filter filter;
static struct err err;

static int release(void **state)
{
	arena_release(&arena);
	return 0;
}

/* Patterns separated by blanks. */
static int make(const char *patterns)
{
	const char *v[20];
	struct strings tables = { v, 0 }, actions = { 0 };
	char *rest = arena_copy(&arena, patterns, strlen(patterns)), *word;

	while ((word = strsep(&rest, " ")))
		v[tables.n++] = word;
	return filter_init(&filter, &arena, &tables, &actions, &err);
}

static bool wants(const char *patterns, const char *schema, const char *table)
{
	if (make(patterns))
		fail_msg("%s: %s", patterns, err.msg);
	return filter_table(&filter, str_c(schema), str_c(table)) != 0;
}

static void test_no_pattern_wants_everything(void **state)
{
	struct strings none = { 0 };

	assert_int_equal(filter_init(&filter, &arena, &none, &none, &err), 0);
	assert_int_equal(filter_table(&filter, STR("public"), STR("users")), ACTIONS_ALL);
	assert_false(filter_is_list(&filter));
}

static void test_names_and_wildcards(void **state)
{
	assert_true(wants("public.users", "public", "users"));
	assert_false(wants("public.users", "public", "Users"));
	assert_false(wants("public.users", "other", "users"));
	assert_true(wants("users", "other", "users"));
	assert_true(wants("*.*", "a", "b"));
	assert_true(wants("public.*", "public", "a.b"));
	assert_false(wants("public*", "public", "users"));
	assert_true(wants("p?b*.u*s", "public", "users"));
	assert_true(wants("*a*b*c", "s", "xaybzabc"));
	assert_false(wants("*a*b*c", "s", "xaybzab"));
	assert_true(wants("caf?", "s", "caf\xc3\xa9"));
	assert_false(wants("caf??", "s", "caf\xc3\xa9"));
	assert_true(wants("*", "s", ""));
	assert_false(wants("?", "s", ""));
}

static void test_quoted_names_are_taken_as_they_are(void **state)
{
	assert_true(wants("\"My.Schema\".\"T\"", "My.Schema", "T"));
	assert_true(wants("public.\"a.b\"", "public", "a.b"));
	assert_true(wants("\"a*\"", "public", "a*"));
	assert_false(wants("\"a*\"", "public", "ab"));
}

static void test_a_quote_inside_quotes_is_doubled(void **state)
{
	assert_true(wants("\"a\"\"b\"", "x", "a\"b"));
	assert_true(wants("\"\"\"\"", "x", "\""));
}

static void test_the_last_match_decides(void **state)
{
	assert_false(wants("public.* !public.log", "public", "log"));
	assert_true(wants("public.* !public.log", "public", "users"));
	assert_false(wants("public.* !public.log", "other", "users"));
	assert_true(wants("!public.* public.users", "public", "users"));
	assert_true(wants("!public.log", "public", "users"));
	assert_false(wants("!public.log", "public", "log"));
}

static void refuse(const char *pattern, const char *why)
{
	assert_int_equal(make(pattern), -1);
	assert_int_equal(err.kind, ERR_CONFIG);
	if (!strstr(err.msg, why) || !strstr(err.msg, pattern))
		fail_msg("%s: expected \"%s\", got \"%s\"", pattern, why, err.msg);
}

static void test_malformed_patterns_are_refused(void **state)
{
	refuse("a.b.c", "more than one dot");
	refuse("a.", "empty");
	refuse(".a", "empty");
	refuse("!", "empty");
	refuse("\"\"", "empty");
	refuse("\"a", "closing double quote is missing");
	refuse("\"a\"b", "behind a closing");
	refuse("a\"b\"", "inside a name");
}

static void test_actions(void **state)
{
	const char *names[] = { "insert", "message" }, *wrong[] = { "upsert" };
	struct strings tables = { 0 }, actions = { names, 2 };

	assert_int_equal(filter_init(&filter, &arena, &tables, &actions, &err), 0);
	assert_int_equal(filter.actions, ACTION_BIT(ACTION_INSERT) | ACTION_BIT(ACTION_MESSAGE));
	assert_int_equal(filter_table(&filter, STR("a"), STR("b")), filter.actions);
	actions = (struct strings){ wrong, 1 };
	assert_int_equal(filter_init(&filter, &arena, &tables, &actions, &err), -1);
	assert_non_null(strstr(err.msg, "upsert"));
}

static void test_a_list_of_whole_names(void **state)
{
	struct str schema, table;

	assert_int_equal(make("public.users \"S.x\".\"a*\""), 0);
	assert_true(filter_is_list(&filter));
	filter_list_table(&filter, 1, &schema, &table);
	assert_true(str_eq(schema, STR("S.x")));
	assert_true(str_eq(table, STR("a*")));
	assert_int_equal(make("public.users users"), 0);
	assert_false(filter_is_list(&filter));
	assert_int_equal(make("public.users !public.log"), 0);
	assert_false(filter_is_list(&filter));
	assert_int_equal(make("public.u?"), 0);
	assert_false(filter_is_list(&filter));
}

static void test_many_stars_take_no_exponential_time(void **state)
{
	char text[20001], pattern[2001];

	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (size_t i = 0; i < sizeof(pattern) - 1; i++)
		pattern[i] = i % 2 ? '*' : 'a';
	pattern[sizeof(pattern) - 2] = 'b';
	pattern[sizeof(pattern) - 1] = '\0';
	assert_false(wants(pattern, "s", text));
}

static uint16_t actions(const char *patterns, const char *table)
{
	if (make(patterns))
		fail_msg("%s: %s", patterns, err.msg);
	return filter_table(&filter, STR("public"), str_c(table));
}

static void test_a_pattern_may_have_actions_of_its_own(void **state)
{
	assert_int_equal(actions("users:insert+delete", "users"),
			 ACTION_BIT(ACTION_INSERT) | ACTION_BIT(ACTION_DELETE));
	assert_int_equal(actions("* \"a:b\".users:insert", "users"), ACTIONS_ALL);
	assert_int_equal(actions("* public.\"users\":update", "users"), ACTION_BIT(ACTION_UPDATE));
	assert_int_equal(actions("\"users:insert\"", "users:insert"), ACTIONS_ALL);
	assert_int_equal(make("users:"), -1);
	assert_int_equal(make("users:insert+"), -1);
	assert_int_equal(make("users:drop"), -1);
	assert_non_null(strstr(err.msg, "drop"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_pattern_wants_everything),
		cmocka_unit_test(test_names_and_wildcards),
		cmocka_unit_test(test_quoted_names_are_taken_as_they_are),
		cmocka_unit_test(test_a_quote_inside_quotes_is_doubled),
		cmocka_unit_test(test_the_last_match_decides),
		cmocka_unit_test(test_malformed_patterns_are_refused),
		cmocka_unit_test(test_actions),
		cmocka_unit_test(test_a_list_of_whole_names),
		cmocka_unit_test(test_many_stars_take_no_exponential_time),
		cmocka_unit_test(test_a_pattern_may_have_actions_of_its_own),
	};

	return cmocka_run_group_tests_name("filter", tests, NULL, release);
}
