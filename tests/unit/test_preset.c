/* Presets: another program's variables and flags become our options and one output. */
#include "test.h"

#include "conf/settings.h"

#include <stdlib.h>

static struct settings s;
static struct err err;

static const char *const variables[] = { "RABBITMQ_URL", "RABBITMQ_EXCHANGE",
					 "PGSLOT",       "PGTABLES",
					 "PGHOST",       "LOG_LEVEL",
					 "PGHERALD_SLOT" };

static int setup(void **state)
{
	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
		unsetenv(variables[i]);
	setenv("RABBITMQ_URL", "amqp://me:secret@broker:5672/?heartbeat=0&retry_delay=3", 1);
	setenv("RABBITMQ_EXCHANGE", "a b", 1);
	return 0;
}

static int teardown(void **state)
{
	settings_release(&s);
	return 0;
}

/* Loads with arguments separated by blanks. */
static int load(const char *verb, const char *args)
{
	char copy[1000], *rest = copy, *argv[50];
	int argc = 0;

	snprintf(copy, sizeof(copy), "%s", args);
	while (*args && rest)
		argv[argc++] = strsep(&rest, " ");
	settings_release(&s);
	err = (struct err){ 0 };
	return settings_load(&s, verb, argc, argv, &err);
}

static void good(const char *args)
{
	if (load("stream", args))
		fail_msg("%s: %s", args, err.msg);
}

static void bad(const char *args, enum err_kind kind, const char *why)
{
	assert_int_equal(load("stream", args), -1);
	assert_int_equal(err.kind, kind);
	if (!strstr(err.msg, why))
		fail_msg("%s: expected \"%s\", got \"%s\"", args, why, err.msg);
	assert_null(strstr(err.msg, "secret"));
}

#define OUTPUT "amqp://me:secret@broker:5672/?exchange=a%20b&heartbeat=0"
#define BARE "&mandatory=false&properties=none"

static void test_the_environment_becomes_an_output(void **state)
{
	setenv("PGSLOT", "pgevents", 1);
	setenv("PGTABLES", "public.users,*.orders", 1);
	setenv("LOG_LEVEL", "WARNING", 1);
	good("--preset pgevents");
	assert_int_equal(s.noutputs, 1);
	assert_string_equal(s.outputs[0].to, OUTPUT BARE);
	assert_string_equal(s.outputs[0].format, "pgevents");
	assert_string_equal(s.outputs[0].compress, "brotli");
	assert_string_equal(s.outputs[0].address, "{schema}.{table}");
	assert_int_equal(s.outputs[0].actions.n, 3);
	assert_string_equal(s.slot, "pgevents");
	assert_int_equal(s.tables.n, 2);
	assert_string_equal(s.log_level, "warn");
}

static void test_flags_in_both_spellings_override_the_environment(void **state)
{
	setenv("PGSLOT", "one", 1);
	setenv("PGHOST", "elsewhere", 1); /* libpq's own affair */
	good("--preset=pgevents --pg_replication_slot two --rabbitmq-url amqp://h --pg_host db "
	     "--pgport=5433 --pgpassword it's\\ --rabbitmq_exchange x --pg_output_plugin wal2json");
	assert_string_equal(s.slot, "two");
	assert_string_equal(s.outputs[0].to, "amqp://h?exchange=x" BARE);
	assert_string_equal(s.connection, "host='db' port='5433' password='it\\'s\\\\'");
	good("--pgslot three --preset pgevents");
	assert_string_equal(s.slot, "three");
	good("--preset pgevents --slot four --pghost db dbname=a");
	assert_string_equal(s.slot, "four");
}

/* Our own variables are stronger than the other program's, as flags are than both. */
static void test_our_own_words_come_first(void **state)
{
	setenv("PGSLOT", "one", 1);
	setenv("PGHERALD_SLOT", "two", 1);
	good("--preset pgevents --format native --compress none --actions insert "
	     "--address {table}");
	assert_string_equal(s.slot, "two");
	assert_string_equal(s.outputs[0].format, "native");
	assert_string_equal(s.outputs[0].compress, "none");
	assert_string_equal(s.outputs[0].address, "{table}");
	assert_int_equal(s.outputs[0].actions.n, 1);
}

static void test_outputs_that_are_said_replace_the_presets(void **state)
{
	good("--preset pgevents --to file:x "
	     "--to amqp://h/?exchange=y&mandatory=true&properties=all&compress=gzip");
	assert_int_equal(s.noutputs, 2);
	assert_string_equal(s.outputs[0].to, "file:x");
	assert_string_equal(s.outputs[0].format, "pgevents");
	assert_null(s.outputs[0].compress);
	assert_string_equal(s.outputs[1].to, "amqp://h/?exchange=y&mandatory=true&properties=all");
	assert_string_equal(s.outputs[1].compress, "gzip");
}

static void test_consume_reads_the_queue(void **state)
{
	assert_int_equal(load("consume", "--preset pgevents --queue-name q --binding-keys a.*,b"), 0);
	assert_string_equal(s.url, OUTPUT "&queue=q");
	assert_string_equal(s.keys, "a.*,b");
	assert_int_equal(load("consume", "--preset pgevents amqp://other"), 0);
	assert_string_equal(s.url, "amqp://other");
}

static void test_without_a_preset_its_words_are_nothing(void **state)
{
	good("");
	assert_string_equal(s.outputs[0].to, "stdout:");
	assert_null(s.outputs[0].format);
	bad("--pghost x", ERR_USAGE, "--pghost: there is no such option");
}

static void test_what_is_wrong(void **state)
{
	bad("--preset pgevent", ERR_CONFIG, "not one of pgevents");
	bad("--preset pgevents --pghoost x", ERR_USAGE, "there is no such option");
	bad("--preset pgevents --pghost", ERR_USAGE, "its value is missing");
	bad("--preset pgevents --pgslot A", ERR_USAGE, "--pgslot: \"A\" is not a slot's name");
	bad("--preset pgevents postgres://h --pghost x", ERR_USAGE, "URI already");
	setenv("PGSLOT", "A", 1);
	bad("--preset pgevents", ERR_CONFIG, "PGSLOT: \"A\" is not");
	unsetenv("PGSLOT");
	unsetenv("RABBITMQ_EXCHANGE");
	bad("--preset pgevents", ERR_CONFIG, "the exchange is missing");
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_the_environment_becomes_an_output),
		CASE(test_flags_in_both_spellings_override_the_environment),
		CASE(test_our_own_words_come_first),
		CASE(test_outputs_that_are_said_replace_the_presets),
		CASE(test_consume_reads_the_queue),
		CASE(test_without_a_preset_its_words_are_nothing),
		CASE(test_what_is_wrong),
	};

	return cmocka_run_group_tests_name("preset", tests, NULL, NULL);
}
