/*
 * Fills in manual pages at build time: copies scdoc text from standard input to standard output and
 * puts options in place of a line "@OPTIONS VERB", keys of the YAML file in place of "@KEYS", and
 * destinations with their parameters in place of "@OUTPUTS".
 */
#include "conf/options.h"
#include "sink/driver.h"

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

/* Both together, with a capital and a full stop. */
static void put_sentence(const char *before, const char *text)
{
	const char *first = *before ? before : text;

	putchar(toupper((unsigned char)*first));
	put_text(first + 1);
	put_text(*before ? text : "");
	putchar('.');
}

static bool is_true(const struct option *o)
{
	return o->def && strcmp(o->def, "true") == 0;
}

/* What is said of an option in either place, up to the end of its line. */
static void put_body(const struct option *o)
{
	if (o->def && *o->def && o->type != OPTION_BOOL && o->type != OPTION_INT) {
		fputs(" Default: ", stdout);
		put_text(o->def);
		putchar('.');
	}
	if (o->more) {
		putchar(' ');
		put_text(o->more);
	}
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
		if (o->flags & OPTION_ARGUMENT)
			printf("_%s_", o->arg);
		else if (o->letter)
			printf("*-%c*, *--%s*", o->letter, o->name);
		else
			printf("*--%s%s*", is_true(o) ? "no-" : "", o->name);
		if (o->type != OPTION_BOOL && !(o->flags & OPTION_ARGUMENT))
			put_value(o);
		fputs("\n\t", stdout);
		put_sentence(is_true(o) ? "do not " : "", o->help);
		put_body(o);
		fputs("\n\n", stdout);
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
		fputs("\n\t", stdout);
		put_sentence("", o->help);
		put_body(o);
		fputs(option_of_output(o) ? " Also in an output." : "", stdout);
		fputs(o->flags & OPTION_RELOAD ? " May change while running.\n\n" : "\n\n", stdout);
	}
}

static void put_param(const struct sink_param *p)
{
	fputs("\t*", stdout);
	put_text(p->name);
	fputs("*=_", stdout);
	put_text(p->type == PARAM_BOOL ? "true|false" : p->arg);
	fputs("_\n\t\t", stdout);
	put_sentence("", p->help);
	if (p->def) {
		fputs(" Default: ", stdout);
		put_text(p->def);
		putchar('.');
	}
	fputs("\n\n", stdout);
}

/* A driver's help is what to write, two blanks, and what it does. */
static void put_outputs(void)
{
	for (size_t i = 0; sink_drivers[i]; i++) {
		const struct sink_driver *d = sink_drivers[i];
		const char *what = strstr(d->help, "  ");

		printf("*");
		for (const char *c = d->help; c < what; c++)
			put_text((char[]){ *c, '\0' });
		printf("*\n\t");
		put_sentence("", what + 2);
		if (d->address) {
			printf(" Address: ");
			put_text(d->address);
			putchar('.');
		}
		printf("\n\n");
		for (const struct sink_param *p = d->params; p && p->name; p++)
			put_param(p);
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
		else if (strcmp(line, "@OUTPUTS") == 0)
			put_outputs();
		else
			puts(line);
	}
	free(line);
	return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}
