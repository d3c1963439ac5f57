#include "cli/help.h"
#include "conf/options.h"
#include "encode/encode.h"
#include "test.h"

#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

static struct settings s;
static struct err err;
static char path[64];

static int setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/test_conf.%d.yaml", (int)getpid());
	s = (struct settings){ 0 };
	err = (struct err){ 0 };
	return 0;
}

static int teardown(void **state)
{
	settings_release(&s);
	unlink(path);
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
	return settings_load(&s, verb, argc, argv, &err);
}

static void good(const char *args)
{
	if (load("stream", args))
		fail_msg("%s: %s", args, err.msg);
}

static void bad(const char *verb, const char *args, enum err_kind kind, const char *why)
{
	err = (struct err){ 0 };
	assert_int_equal(load(verb, args), -1);
	if (!strstr(err.msg, why))
		fail_msg("%s: expected \"%s\", got \"%s\"", args, why, err.msg);
	assert_int_equal(err.kind, kind);
	assert_null(s.arena.chunks);
}

static void write_file(const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static char *with_file(const char *text, const char *args)
{
	static char line[1000];

	write_file(text);
	snprintf(line, sizeof(line), "-c %s%s%s", path, *args ? " " : "", args);
	return line;
}

static void bad_file(const char *text, const char *line_and_why)
{
	char why[500];

	snprintf(why, sizeof(why), "%s:%s", path, line_and_why);
	bad("stream", with_file(text, ""), ERR_CONFIG, why);
}

static void test_defaults(void **state)
{
	good("");
	assert_string_equal(s.connection, "");
	assert_string_equal(s.slot, "pgherald");
	assert_string_equal(s.publication, "pgherald");
	assert_true(s.create && s.wait && !s.temporary && !s.binary);
	assert_int_equal(s.limit, 0);
	assert_null(s.from);
	assert_null(s.file);
	assert_int_equal(s.noutputs, 1);
	assert_string_equal(s.outputs[0].to, "stdout:");
	assert_null(s.outputs[0].format);
	assert_string_equal(s.outputs[0].numeric, "number");
	assert_true(s.outputs[0].transactions);
}

static void test_forms_of_flags(void **state)
{
	good("host=x --slot=a --no-create --no-wait=false --temporary --limit 5 --tables a.b,!c.d");
	assert_string_equal(s.connection, "host=x");
	assert_string_equal(s.slot, "a");
	assert_true(!s.create && s.wait && s.temporary);
	assert_int_equal(s.limit, 5);
	assert_int_equal(s.tables.n, 2);
	assert_string_equal(s.tables.v[1], "!c.d");
	good("--slot a -- -x");
	assert_string_equal(s.connection, "-x");
	good("--slot a --slot b");
	assert_string_equal(s.slot, "b");
}

static void test_help_is_looked_at_before_all_else(void **state)
{
	good("-c /does/not/exist --help --what");
	assert_true(s.help);
}

static void test_lists_are_split_outside_of_quotes(void **state)
{
	char flag[] = "--tables", value[] = " \"a,b\".c , d ";
	char *argv[] = { flag, value };

	assert_int_equal(settings_load(&s, "stream", 2, argv, &err), 0);
	assert_int_equal(s.tables.n, 2);
	assert_string_equal(s.tables.v[0], "\"a,b\".c");
	assert_string_equal(s.tables.v[1], "d");
}

static void test_wrong_arguments_are_usage_errors(void **state)
{
	bad("stream", "--slt x", ERR_USAGE, "--slt: there is no such option, did you mean --slot?");
	bad("stream", "-x", ERR_USAGE, "-x: there is no such option");
	bad("stream", "--no-slot x", ERR_USAGE, "--no-slot: there is no such option");
	bad("demo", "--slot x", ERR_USAGE, "--slot: it is not an option of demo");
	bad("demo", "host=x", ERR_USAGE, "demo: it takes no argument");
	bad("stream", "--slot", ERR_USAGE, "--slot: its value is missing");
	bad("stream", "--slot A", ERR_USAGE, "--slot: \"A\" is not a slot's name");
	bad("stream", "--limit -1", ERR_USAGE, "--limit: \"-1\" is not a whole number from 0");
	bad("stream", "--limit 99999999999999999999", ERR_USAGE, "whole number");
	bad("stream", "--format xml", ERR_USAGE, "--format: \"xml\" is not one of native|");
	bad("stream", "--actions insert,upsert", ERR_USAGE, "\"upsert\" is not one of insert|");
	bad("stream", "--tables a,,b", ERR_USAGE, "empty item");
	bad("stream", "--tables a.b.c", ERR_USAGE, "--tables: \"a.b.c\": it has more than one dot");
	bad("stream", "--from 12", ERR_USAGE, "neither now nor an LSN");
	bad("stream", "--from 1/", ERR_USAGE, "neither now nor an LSN");
	bad("stream", "--from 1/2/3", ERR_USAGE, "neither now nor an LSN");
	bad("stream", "--until 0/123456789", ERR_USAGE, "neither now nor an LSN");
	bad("stream", "--tags x", ERR_USAGE, "not NAME=VALUE");
	bad("stream", "--binary=perhaps", ERR_USAGE, "neither true nor false");
	bad("stream", "--publication=", ERR_USAGE, "--publication: it is empty");
	bad("stream", "--to file:x?format=xml", ERR_USAGE, "--to: format: \"xml\"");
}

static void test_a_second_conninfo_is_not_shown(void **state)
{
	bad("stream", "host=x postgres://u:secret@h", ERR_USAGE, "one argument too many");
	assert_null(strstr(err.msg, "secret"));
}

static void test_flags_override_variables_override_the_file(void **state)
{
	char *args = with_file("slot: file\npublication: file\nnumeric: string\nlimit: 1\n",
			       "--limit 3");

	setenv("PGHERALD_PUBLICATION", "variable", 1);
	setenv("PGHERALD_LIMIT", "2", 1);
	good(args);
	assert_string_equal(s.slot, "file");
	assert_string_equal(s.publication, "variable");
	assert_int_equal(s.limit, 3);
	assert_string_equal(s.outputs[0].numeric, "string");
	assert_string_equal(s.file, path);
	unsetenv("PGHERALD_PUBLICATION");
	unsetenv("PGHERALD_LIMIT");
}

static void test_variables(void **state)
{
	setenv("PGHERALD_LOG_FORMAT", "json", 1);
	setenv("PGHERALD_NO_CREATE", "1", 1);
	setenv("PGHERALD_PORT", "tcp://10.0.0.1:80", 1); /* from Kubernetes: not an option */
	good("");
	assert_string_equal(s.log_format, "json");
	assert_false(s.create);
	setenv("PGHERALD_SLOT", "No!", 1);
	bad("stream", "", ERR_CONFIG, "PGHERALD_SLOT: \"No!\" is not a slot's name");
	unsetenv("PGHERALD_SLOT");
	unsetenv("PGHERALD_LOG_FORMAT");
	unsetenv("PGHERALD_NO_CREATE");
	unsetenv("PGHERALD_PORT");
}

static void test_the_file_may_be_named_by_a_variable(void **state)
{
	write_file("slot: file\n");
	setenv("PGHERALD_CONFIG", path, 1);
	good("");
	assert_string_equal(s.slot, "file");
	unsetenv("PGHERALD_CONFIG");
	bad("stream", "-c /does/not/exist", ERR_CONFIG, "cannot read /does/not/exist: No such file");
	bad("stream", "-c /tmp", ERR_CONFIG, "cannot read /tmp: Is a directory");
}

static void test_outputs_inherit_what_they_do_not_say(void **state)
{
	good(with_file("tables: [a.*]\n"
		       "format: pgevents\n"
		       "outputs:\n"
		       "  - to: file:/1\n"
		       "  - to: file:/2?format=wal2json&x=%41&int8=string&y\n"
		       "    tables: [b.*, c.*]\n"
		       "    tags: {env: prod, zone: a b}\n"
		       "  - file:/3\n",
		       "--bytea base64 --format debezium"));
	assert_int_equal(s.noutputs, 3);
	assert_string_equal(s.outputs[0].to, "file:/1");
	assert_string_equal(s.outputs[0].format, "debezium");
	assert_string_equal(s.outputs[0].tables.v[0], "a.*");
	assert_string_equal(s.outputs[1].to, "file:/2?x=%41&y");
	assert_string_equal(s.outputs[1].format, "wal2json");
	assert_string_equal(s.outputs[1].int8, "string");
	assert_string_equal(s.outputs[1].bytea, "base64");
	assert_int_equal(s.outputs[1].tables.n, 2);
	assert_string_equal(s.outputs[1].tags.v[1], "zone=a b");
	assert_int_equal(s.tables.n, 1);
	assert_string_equal(s.outputs[2].to, "file:/3");
}

static void test_to_replaces_the_outputs_of_weaker_sources(void **state)
{
	char *args = with_file("to: [file:/1, file:/2]\n", "");

	good(args);
	assert_int_equal(s.noutputs, 2);
	setenv("PGHERALD_TO", "null", 1);
	good(args);
	assert_int_equal(s.noutputs, 1);
	assert_string_equal(s.outputs[0].to, "null:");
	good("--to file:/3 --to file:/4?recorded-at=true");
	assert_int_equal(s.noutputs, 2);
	assert_string_equal(s.outputs[1].to, "file:/4");
	assert_true(s.outputs[1].recorded_at && !s.outputs[0].recorded_at);
	unsetenv("PGHERALD_TO");
}

static void test_errors_of_the_file_name_line_and_key(void **state)
{
	bad_file("slot: a\nslto: b\n", "2: slto: there is no such key; did you mean slot?");
	bad_file("log-level: info\n",
		 "1: log-level: there is no such key; did you mean log_level?");
	bad_file("help: true\n",
		 "1: help: there is no such key; --print-config shows those there are");
	bad_file("slot: [a]\n", "1: slot: it is a list; it must be a single value");
	bad_file("slot:\n", "1: slot: it is empty; it must be a single value");
	bad_file("tables: {a: b}\n", "1: tables: it is a mapping; it must be a list or text");
	bad_file("tables: []\n", "1: tables: the list is empty");
	bad_file("tables:\n- a\n- [b]\n", "3: it is a list; it must be a single value");
	bad_file("tags: [a]\n", "1: tags: it is a list; it must be a mapping");
	bad_file("\nlimit: many\n", "2: limit: \"many\" is not a whole number");
	bad_file("- a\n", "1: it is a list; it must be a mapping of keys to values");
	bad_file("outputs:\n- format: native\n", "2: the output has no \"to\"");
	bad_file("outputs:\n- to: file:a\n  slot: b\n", "3: slot: it is for all outputs");
	bad_file("outputs:\n- to: file:a\n  fromat: b\n",
		 "3: fromat: there is no such key; did you "
		 "mean format?");
	bad_file("outputs:\n- stdout:\n", "2: stdout: there is no such key; text that ends with a "
					  "colon must be in quotes");
	bad_file("outputs:\n", "1: outputs: it is empty");
	bad_file("to: {}\n", "1: to: the output has no \"to\"");
	bad_file("to: ''\n", "1: to: the URL of an output is empty");
	bad_file("outputs: [{to: 'a:?tables=%'}]\n", "1: to: tables: a % is not followed by");
}

static void test_too_many_outputs(void **state)
{
	struct str n = STR("file:/x");

	settings_init(&s);
	for (int i = 0; i < 64; i++)
		assert_int_equal(settings_set(&s, "to", n.p, &err), 0);
	assert_int_equal(settings_set(&s, "to", n.p, &err), -1);
	assert_non_null(strstr(err.msg, "64 outputs"));
}

static void test_one_option_by_name(void **state)
{
	settings_init(&s);
	assert_int_equal(settings_set(&s, "to", "file:/x", &err), 0);
	assert_int_equal(settings_set(&s, "log-format", "json", &err), 0);
	assert_int_equal(settings_set(&s, "log_level", "debug", &err), 0);
	assert_int_equal(settings_set(&s, "format", "pgevents", &err), 0);
	assert_string_equal(s.log_level, "debug");
	assert_string_equal(s.outputs[0].format, "pgevents");
	assert_int_equal(settings_set(&s, "slot", "X", &err), -1);
	assert_int_equal(err.kind, ERR_CONFIG);
	assert_non_null(strstr(err.msg, "slot: \"X\""));
	assert_int_equal(settings_set(&s, "slott", "x", &err), -1);
	assert_non_null(strstr(err.msg, "did you mean slot"));
	assert_int_equal(settings_set(&s, "help", "true", &err), -1);
}

static void test_reload_refuses_what_needs_a_restart(void **state)
{
	struct settings old;

	good("--slot a --tables a.b --name x");
	old = s;
	s = (struct settings){ 0 };
	good("--slot a --tables c.d --format native --to null: --name x");
	assert_int_equal(settings_check_reload(&old, &s, &err), 0);
	good("--slot a --tables a.b");
	assert_int_equal(settings_check_reload(&old, &s, &err), -1);
	assert_non_null(strstr(err.msg, "name changes only with a restart"));
	good("--slot a --name x --no-create");
	assert_int_equal(settings_check_reload(&old, &s, &err), -1);
	assert_non_null(strstr(err.msg, "create changes"));
	settings_release(&old);
}

static char *printed(void)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	settings_print(&s, f);
	fclose(f);
	return text;
}

static void test_printed_settings_can_be_read_again(void **state)
{
	char *first, *second;

	settings_init(&s);
	assert_int_equal(settings_set(&s, "connection", "host=x user='a b'", &err), 0);
	assert_int_equal(settings_set(&s, "tables", "\"a,\t\\$b\".c,!d.*", &err), 0);
	assert_int_equal(settings_set(&s, "to", "file:/a b?tables=x.y&format=pretty&z=$HOME", &err),
			 0);
	assert_int_equal(settings_set(&s, "to", "null:", &err), 0);
	assert_int_equal(settings_set(&s, "name",
				      "\xc3\xa9 \xc2\x85 \xe2\x80\xa8 \xef\xbb\xbf \x7f", &err),
			 0);
	assert_int_equal(settings_set(&s, "tags", "a$b=${c},d=", &err), 0);
	assert_int_equal(settings_set(&s, "create", "false", &err), 0);
	first = printed();
	settings_release(&s);
	good(with_file(first, ""));
	second = printed();
	assert_string_equal(first, second);
	assert_string_equal(s.tables.v[0], "\"a,\t\\$b\".c");
	assert_string_equal(s.name, "\xc3\xa9 \xc2\x85 \xe2\x80\xa8 \xef\xbb\xbf \x7f");
	assert_string_equal(s.outputs[0].to, "file:/a b?z=$HOME");
	assert_string_equal(s.outputs[1].tags.v[0], "a$b=${c}");
	free(first);
	free(second);
}

static void test_secrets_are_masked(void **state)
{
	static const char *const conninfos[] = {
		"postgres://u:hush@h/db",
		"postgresql://h/db?sslpassword=hush",
		"host=h password=hush user=u",
		"host=h password = 'hush hush \\' hush' user=u",
		"host=h password=hu\\ hush",
		"password=hush",
		"password='hush",
		"dbname='postgres://u:hush@h/db' user=u",
		"service=x sslpassword=hush",
	};

	for (size_t i = 0; i < sizeof(conninfos) / sizeof(conninfos[0]); i++) {
		char *text;

		settings_release(&s);
		settings_init(&s);
		assert_int_equal(settings_set(&s, "connection", conninfos[i], &err), 0);
		assert_int_equal(settings_set(&s, "to", "nats://hush@h?token=hush", &err), 0);
		text = printed();
		if (strstr(text, "hush") || !strstr(text, "***"))
			fail_msg("%s: %s", conninfos[i], text);
		free(text);
	}
}

static void test_the_table_is_sound(void **state)
{
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options[i];

		assert_ptr_equal(options_find(str_c(o->name), '-'), o);
		assert_non_null(o->help);
		assert_true(islower((unsigned char)o->help[0]));
		assert_true(o->type == OPTION_BOOL || o->arg);
		assert_true(o->type != OPTION_STRING || o->max > 0);
		assert_true((o->type == OPTION_OUTPUT) == (o->at == OPTION_NOWHERE));
	}
}

static void test_the_table_knows_the_formats_and_actions(void **state)
{
	const struct option *format = options_find(STR("format"), '-');
	const struct option *action = options_find(STR("actions"), '-');
	char names[200] = "";

	for (size_t i = 0; encode_formats[i]; i++)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? "|" : "",
			 encode_formats[i]->name);
	assert_string_equal(names, format->arg);
	names[0] = '\0';
	for (int i = 0; i < ACTION_BEGIN; i++)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%.*s",
			 i ? "|" : "", STR_ARG(action_names[i]));
	assert_string_equal(names, action->arg);
}

int subscribe_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int stream_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int check_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int status_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int drop_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int consume_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int store_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int append_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int read_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int load_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int parked_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int retain_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int purge_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int demo_run(const struct command *command, struct settings *settings)
{
	return 0;
}

int replay_run(const struct command *command, struct settings *settings)
{
	return 0;
}

/* Whether the text has at most 40 lines of at most 100 columns. */
static void fits_a_screen(const char *text)
{
	size_t lines = 0, column = 0;

	for (const char *c = text; *c; c++) {
		lines += *c == '\n';
		column = *c == '\n' ? 0 : column + 1;
		if (lines > 40 || column > 100)
			fail_msg("too large a screen: %s", text);
	}
}

static void test_help_fits_a_screen_and_begins_with_an_example(void **state)
{
	for (const struct verb *v = verbs; v->name; v++) {
		char *text = NULL, start[50];
		size_t n;
		FILE *f = open_memstream(&text, &n);

		help_verb(f, v);
		fclose(f);
		fits_a_screen(text);
		snprintf(start, sizeof(start), "Example: pgherald %s", v->name);
		assert_memory_equal(text, start, strlen(start));
		for (size_t i = 0; i < options_count; i++) {
			const struct option *o = &options[i];
			bool argument = o->flags & OPTION_ARGUMENT;
			char flag[50];

			snprintf(flag, sizeof(flag), "%s%s", argument ? "" : "-",
				 argument ? o->arg : o->name);
			if (option_of_verb(o, v->name) && !(o->flags & OPTION_MANUAL) &&
			    !strstr(text, flag))
				fail_msg("%s --help lacks %s", v->name, flag);
		}
		free(text);
	}
}

static void test_help_of_the_program_names_all_verbs(void **state)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	help_program(f);
	fclose(f);
	fits_a_screen(text);
	assert_memory_equal(text, "Example: ", 9);
	for (const struct verb *v = verbs; v->name; v++)
		assert_non_null(strstr(text, v->help));
	free(text);
	assert_ptr_equal(verbs_find("stream"), &verbs[0]);
	assert_null(verbs_find("steam"));
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_defaults),
		CASE(test_forms_of_flags),
		CASE(test_help_is_looked_at_before_all_else),
		CASE(test_lists_are_split_outside_of_quotes),
		CASE(test_wrong_arguments_are_usage_errors),
		CASE(test_a_second_conninfo_is_not_shown),
		CASE(test_flags_override_variables_override_the_file),
		CASE(test_variables),
		CASE(test_the_file_may_be_named_by_a_variable),
		CASE(test_outputs_inherit_what_they_do_not_say),
		CASE(test_to_replaces_the_outputs_of_weaker_sources),
		CASE(test_errors_of_the_file_name_line_and_key),
		CASE(test_too_many_outputs),
		CASE(test_one_option_by_name),
		CASE(test_reload_refuses_what_needs_a_restart),
		CASE(test_printed_settings_can_be_read_again),
		CASE(test_secrets_are_masked),
		CASE(test_the_table_is_sound),
		CASE(test_the_table_knows_the_formats_and_actions),
		CASE(test_help_fits_a_screen_and_begins_with_an_example),
		CASE(test_help_of_the_program_names_all_verbs),
	};

	return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
