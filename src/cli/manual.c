/*
 * Fills in manual pages at build time: copies scdoc text from standard input to standard output and
 * puts options in place of a line "@OPTIONS VERB", keys of the YAML file in place of "@KEYS".
 */
#include "conf/options.h"

#include <ctype.h>
#include <stdlib.h>

/* Text without any markup. */
static void put_text(const char *text)
{
	for (const char *c = text; *c; c++) {
		if (strchr("\\*_<#~", *c))
			putchar('\\');
		putchar(*c);
	}
}

static void put_sentence(const char *text)
{
	char first[] = { (char)toupper((unsigned char)*text), '\0' };

	put_text(first);
	put_text(text + 1);
	putchar('.');
}

static bool is_true(const struct option *o)
{
	return o->def && strcmp(o->def, "true") == 0;
}

/* What is said of an option in either place. */
static void put_body(const struct option *o, const char *before)
{
	printf("\t%s", before);
	put_sentence(o->help);
	if (o->def && *o->def && o->type != OPTION_BOOL) {
		fputs(" Default: ", stdout);
		put_text(o->def);
		putchar('.');
	}
	if (o->more) {
		putchar(' ');
		put_text(o->more);
	}
	if (o->flags & OPTION_RELOAD)
		fputs(" May change while running.", stdout);
	fputs("\n\n", stdout);
}

static void put_value(const struct option *o)
{
	fputs(" _", stdout);
	put_text(o->arg);
	putchar('_');
}

static void put_options(const char *verb)
{
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options[i];

		if (!option_of_verb(o, verb))
			continue;
		if (strcmp(o->name, "connection") == 0)
			printf("_%s_", o->arg);
		else if (o->letter)
			printf("*-%c*, *--%s*", o->letter, o->name);
		else
			printf("*--%s%s*", is_true(o) ? "no-" : "", o->name);
		if (o->type != OPTION_BOOL && strcmp(o->name, "connection") != 0)
			put_value(o);
		putchar('\n');
		put_body(o, is_true(o) ? "Turns this off: " : "");
	}
}

static void put_keys(void)
{
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options[i];

		if (o->flags & OPTION_FLAG_ONLY)
			continue;
		putchar('*');
		for (const char *c = o->name; *c; c++)
			fputs(*c == '-' ? "\\_" : (char[]){ *c, '\0' }, stdout);
		fputs("*:", stdout);
		if (o->type == OPTION_BOOL)
			printf(" _true|false_ (%s)", o->def);
		else
			put_value(o);
		putchar('\n');
		put_body(o, option_of_output(o) ? "(Also in an output.) " : "");
	}
}

int main(void)
{
	char *line = NULL;
	size_t cap = 0;

	while (getline(&line, &cap, stdin) >= 0) {
		line[strcspn(line, "\n")] = '\0';
		if (str_starts(str_c(line), STR("@OPTIONS ")))
			put_options(line + strlen("@OPTIONS "));
		else if (strcmp(line, "@KEYS") == 0)
			put_keys();
		else
			puts(line);
	}
	free(line);
	return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
