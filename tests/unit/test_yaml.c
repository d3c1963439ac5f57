#include "conf/yaml.h"
#include "test.h"

#include <stdlib.h>

#include <stdio.h>

static struct arena arena;
static struct yaml *root;
static struct err err;

static int release(void **state)
{
	arena_release(&arena);
	return 0;
}

static int tree(const char *text)
{
	err = (struct err){ 0 };
	return yaml_tree(&root, &arena, "f", str_c(text), &err);
}

static void parse(const char *text)
{
	if (tree(text))
		fail_msg("%s: %s", text, err.msg);
}

static void refuse(const char *text, const char *why)
{
	assert_int_equal(tree(text), -1);
	assert_int_equal(err.kind, ERR_CONFIG);
	if (!strstr(err.msg, why))
		fail_msg("%s: expected \"%s\", got \"%s\"", text, why, err.msg);
}

static void test_a_tree_with_lines(void **state)
{
	const struct yaml *y;

	parse("# comment\na: one\nb:\n  - 1\n  - \"x y\"\nc: {d: e,\n  f: g}\n");
	assert_int_equal(root->kind, YAML_MAP);
	y = root->first;
	assert_string_equal(y->key, "a");
	assert_string_equal(y->text, "one");
	assert_int_equal(y->line, 2);
	y = y->next;
	assert_int_equal(y->kind, YAML_LIST);
	assert_int_equal(y->line, 3);
	assert_string_equal(y->first->next->text, "x y");
	assert_int_equal(y->first->next->line, 5);
	y = y->next;
	assert_int_equal(y->kind, YAML_MAP);
	assert_string_equal(y->first->next->key, "f");
	assert_int_equal(y->first->next->line, 7);
	assert_null(y->next);
}

static void test_nothing_and_empty_values(void **state)
{
	parse("");
	assert_null(root);
	parse("# only a comment\n");
	assert_null(root);
	parse("a:\nb: ''\n");
	assert_true(root->first->absent);
	assert_false(root->first->next->absent);
	assert_string_equal(root->first->next->text, "");
}

static void test_variables(void **state)
{
	setenv("CONF_TEST", "a: b", 1);
	unsetenv("CONF_TEST_NOT");
	parse("x: ${CONF_TEST}-${CONF_TEST}\ny: \"$$ $ $$$${X} $\"\n${CONF_TEST}: z\n");
	assert_string_equal(root->first->text, "a: b-a: b");
	assert_string_equal(root->first->next->text, "$ $ $${X} $");
	assert_string_equal(root->first->next->next->key, "${CONF_TEST}");
	refuse("\nx: ${CONF_TEST_NOT}",
	       "f:2: x: the environment variable CONF_TEST_NOT is not set");
	refuse("x: ${}", "${HOME}");
	refuse("x: '${A'", "${HOME}");
	refuse("x: '${A B}'", "${HOME}");
}

static void test_variables_may_not_blow_a_file_up(void **state)
{
	static char big[100001], text[20 * 12];

	memset(big, 'x', sizeof(big) - 1);
	setenv("CONF_TEST", big, 1);
	for (size_t i = 0; i < 19; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "${CONF_TEST}");
	refuse(text, "larger than 1 MiB");
	setenv("CONF_TEST", "", 1);
}

static void test_duplicate_keys(void **state)
{
	refuse("a: 1\nb: 2\n\na: 3\n", "f:4: the key a is there twice, first in line 1");
}

static void test_what_is_not_taken(void **state)
{
	refuse("a: &x 1\nb: *x\n", "f:1: a: anchors, aliases and tags are not taken");
	refuse("a: *x\n", "f:1: a: anchors, aliases and tags are not taken");
	refuse("a: !!str 1\n", "must be in quotes");
	refuse("a: [!x]\n", "must be in quotes");
	refuse("a: *.b\n", "begins with * must be in quotes");
	refuse("a: [!b.*]\n", "must be in quotes");
	refuse("to: stdout:\n", "ends with a colon must be in quotes");
	refuse("a: 1\n---\nb: 2\n", "f:2: a second document begins");
	refuse("a: \"\\0\"\n", "NUL");
	refuse("[a, b]: c\n", "a key must be a word");
	refuse("a: [1,\n\n", "f:3: ");
	refuse("a: \"\xff\"\n", "f:1: ");
}

static void test_depth_and_size_are_bounded(void **state)
{
	static char text[(1 << 20) + 10];

	memset(text, '[', 20);
	refuse(text, "nested too deeply");
	memset(text, '[', 900);
	refuse(text, "nested too deeply");
	for (size_t i = 1; i < 20003; i += 2)
		memcpy(text + i, "a,", 3);
	text[0] = '[';
	refuse(text, "too many values");
	memset(text, ' ', sizeof(text) - 1);
	refuse(text, "larger than 1 MiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_tree_with_lines),
		cmocka_unit_test(test_nothing_and_empty_values),
		cmocka_unit_test(test_variables),
		cmocka_unit_test(test_variables_may_not_blow_a_file_up),
		cmocka_unit_test(test_duplicate_keys),
		cmocka_unit_test(test_what_is_not_taken),
		cmocka_unit_test(test_depth_and_size_are_bounded),
	};

	return cmocka_run_group_tests_name("yaml", tests, NULL, release);
}
