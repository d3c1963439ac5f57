#include "base/url.h"
#include "test.h"

static struct arena arena;
static struct url url;
static struct err err;

static int release(void **state)
{
	arena_release(&arena);
	return 0;
}

static void parse(const char *text)
{
	if (url_parse(&url, &arena, text, &err))
		fail_msg("%s: %s", text, err.msg);
}

static void refuse(const char *text, const char *why)
{
	err = (struct err){ 0 };
	assert_int_equal(url_parse(&url, &arena, text, &err), -1);
	assert_int_equal(err.kind, ERR_CONFIG);
	if (!strstr(err.msg, why))
		fail_msg("%s: expected \"%s\", got \"%s\"", text, why, err.msg);
}

static void test_a_whole_url(void **state)
{
	parse("NATS+tls://me:s%40cret@a.example:4222,[::1]:4223,b/x%20y/z?q=1&empty&t=%3D+");
	assert_string_equal(url.scheme, "nats+tls");
	assert_string_equal(url.user, "me");
	assert_string_equal(url.password, "s@cret");
	assert_int_equal(url.nhosts, 3);
	assert_string_equal(url.hosts[0].host, "a.example");
	assert_int_equal(url.hosts[0].port, 4222);
	assert_string_equal(url.hosts[1].host, "::1");
	assert_int_equal(url.hosts[1].port, 4223);
	assert_string_equal(url.hosts[2].host, "b");
	assert_int_equal(url.hosts[2].port, 0);
	assert_string_equal(url.path, "/x y/z");
	assert_string_equal(url_param(&url, "q"), "1");
	assert_string_equal(url_param(&url, "empty"), "");
	assert_string_equal(url_param(&url, "t"), "=+");
	assert_null(url_param(&url, "none"));
}

static void test_paths_without_a_host(void **state)
{
	parse("stdout:");
	assert_string_equal(url.path, "");
	parse("file:relative/x.json");
	assert_string_equal(url.path, "relative/x.json");
	parse("file:/x:y@z.json");
	assert_string_equal(url.path, "/x:y@z.json");
	assert_null(url.user);
	parse("file:///x.json");
	assert_string_equal(url.path, "/x.json");
	assert_int_equal(url.nhosts, 0);
}

static void test_a_password_may_hold_an_at_sign_and_the_last_of_equal_parameters_counts(void **state)
{
	parse("amqp://u:a@b:c@host?x=1&x=2");
	assert_string_equal(url.user, "u");
	assert_string_equal(url.password, "a@b:c");
	assert_string_equal(url.hosts[0].host, "host");
	assert_string_equal(url_param(&url, "x"), "2");
	parse("redis://:secret@h");
	assert_string_equal(url.user, "");
	assert_string_equal(url.password, "secret");
}

static void test_errors_say_what_is_wrong(void **state)
{
	refuse("x.json", "no scheme");
	refuse("", "no scheme");
	refuse(":x", "no scheme");
	refuse("1x:", "no scheme");
	refuse("a://h:0", "port");
	refuse("a://h:65536", "port");
	refuse("a://h:4x", "port");
	refuse("a://h:", "port");
	refuse("a://[::1", "brackets");
	refuse("a://[::1]x", "brackets");
	refuse("a://h,,i", "host is empty");
	refuse("a://u@", "host is missing");
	refuse("a://h/%4", "the path has a %");
	refuse("a:%00", "the path has a %");
	refuse("a:?x=%zz", "x has a %");
}

static void masked(const char *text, const char *expected)
{
	struct strbuf out = { 0 };

	url_mask(&out, str_c(text));
	assert_string_equal(strbuf_cstr(&out), expected);
	strbuf_release(&out);
}

static void test_masks_hide_secrets_and_nothing_else(void **state)
{
	masked("amqp://u:p@h/x?heartbeat=1", "amqp://u:***@h/x?heartbeat=1");
	masked("amqp://u:p@q@h", "amqp://u:***@h");
	masked("nats://token@h", "nats://***@h");
	masked("postgresql://me@h/db", "postgresql://me@h/db");
	masked("postgres://me:p@h/db?sslpassword=x&sslmode=require",
	       "postgres://me:***@h/db?sslpassword=***&sslmode=require");
	masked("https://h/x?Access_Token=abc&a=b", "https://h/x?Access_Token=***&a=b");
	masked("nats://me:p@h/x?dead_letter=amqp://u:q@h&a=b",
	       "nats://me:***@h/x?dead_letter=***&a=b");
	masked("https://h/x?header.Cookie=a", "https://h/x?header.Cookie=***");
	masked("file:/a@b?c", "file:/a@b?c");
	masked("exec:a  b=c d ", "exec:a  b=c d ");
	masked("a://h:1/p", "a://h:1/p");
	masked("no url", "no url");
	masked("", "");
}

static void test_masks_hide_the_password_of_a_malformed_url(void **state)
{
	masked("amqp://u:p/a?s@h/x", "amqp://u:***@h/x");
	masked("amqp://u:p?q=r@h", "amqp://u:***@h");
	masked("postgres:host=h password='a b'?table=x", "postgres:host=h password=***?table=x");
	masked("password=p user=u", "password=***");
	masked("user=u password = p", "user=u password=***");
	masked("file:/my password", "file:/my password");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_whole_url),
		cmocka_unit_test(test_paths_without_a_host),
		cmocka_unit_test(
			test_a_password_may_hold_an_at_sign_and_the_last_of_equal_parameters_counts),
		cmocka_unit_test(test_errors_say_what_is_wrong),
		cmocka_unit_test(test_masks_hide_secrets_and_nothing_else),
		cmocka_unit_test(test_masks_hide_the_password_of_a_malformed_url),
	};

	return cmocka_run_group_tests_name("url", tests, NULL, release);
}
