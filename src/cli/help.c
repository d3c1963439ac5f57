#include "cli/help.h"

#include "conf/options.h"
#include "sink/driver.h"

#include <ctype.h>

#define WIDTH 100
#define COLUMN 29   /* where explanations begin */
#define LONG_ARG 16 /* choices longer than this get a line of their own */

static bool has_long_choices(const struct option *o)
{
	return (o->type == OPTION_ENUM || o->type == OPTION_LIST) && strlen(o->arg) > LONG_ARG;
}

/* The name as an argument's: FORMAT. */
static int print_upper(FILE *f, const char *name)
{
	int n = 0;

	for (; name[n]; n++)
		fputc(name[n] == '-' ? '_' : toupper((unsigned char)name[n]), f);
	return n;
}

/* "-c, --config FILE", "--no-create", "CONNINFO"; returns its width. */
static int print_flag(FILE *f, const struct option *o)
{
	bool negative = o->type == OPTION_BOOL && o->def && strcmp(o->def, "true") == 0;
	int n = fprintf(f, "  ");

	if (o->flags & OPTION_ARGUMENT)
		return n + fprintf(f, "%s", o->arg);
	if (o->letter)
		n += fprintf(f, "-%c, ", o->letter);
	n += fprintf(f, "--%s%s", negative ? "no-" : "", o->name);
	if (o->type == OPTION_BOOL)
		return n;
	n += fprintf(f, " ");
	return n + (has_long_choices(o) ? print_upper(f, o->name) : fprintf(f, "%s", o->arg));
}

static void print_option(FILE *f, const struct option *o)
{
	bool is_true = o->def && strcmp(o->def, "true") == 0;
	int width = print_flag(f, o);

	if (width >= COLUMN) {
		fputc('\n', f);
		width = 0;
	}
	fprintf(f, "%*s%s%s", COLUMN - width, "", is_true ? "do not " : "", o->help);
	if (o->def && *o->def && o->type != OPTION_BOOL && o->type != OPTION_INT)
		fprintf(f, " (%s)", o->def);
	if (has_long_choices(o) && COLUMN + strlen(o->help) + strlen(o->arg) + 10 > WIDTH)
		fprintf(f, "\n%*s%s", COLUMN, "", o->arg);
	else if (has_long_choices(o))
		fprintf(f, ": %s", o->arg);
	fputc('\n', f);
}

void help_drivers(FILE *f, const char *before, const char *behind)
{
	fputs(before, f);
	for (size_t i = 0; sink_drivers[i]; i++)
		fprintf(f, " %s%s", sink_drivers[i]->schemes[0], behind);
	fputc('\n', f);
	if (!sink_missing[0])
		return;
	fputs("Not in this build:", f);
	for (size_t i = 0; sink_missing[i]; i++)
		fprintf(f, " %s", sink_missing[i]);
	fputc('\n', f);
}

void help_verb(FILE *f, const struct verb *v)
{
	const struct option *argument;
	const char *heading = NULL, *printed = NULL;

	fprintf(f, "Example: %s\n\nUsage: pgherald %s ", v->example, v->name);
	for (size_t i = 0; (argument = options_argument(v->name, i)) != NULL; i++)
		fprintf(f, argument->min ? "%s " : "[%s] ", argument->arg);
	fprintf(f, "[OPTIONS]\n%s", v->text);
	for (size_t i = 0; i < options_count; i++) {
		const struct option *o = &options[i];

		if (o->heading)
			heading = o->heading;
		if (!option_of_verb(o, v->name) || o->flags & OPTION_MANUAL)
			continue;
		if (heading != printed)
			fprintf(f, "%s:\n", heading);
		printed = heading;
		print_option(f, o);
	}
	if (option_of_verb(options_find(STR("to"), '-'), v->name))
		help_drivers(f, "Outputs:", ":");
	fprintf(f, "More in pgherald-%s(1).\n", v->name);
}

void help_program(FILE *f)
{
	fprintf(f, "Example: %s\n\nUsage: pgherald VERB [CONNINFO] [OPTIONS]\n", verbs[0].example);
	fputs("Delivers PostgreSQL's events: row changes as they commit, exactly and in order.\n\n",
	      f);
	for (const struct verb *v = verbs; v->name; v++)
		fprintf(f, "  %-9s %s\n", v->name, v->help);
	fputs("\n  pgherald VERB --help   the options of a verb\n"
	      "  pgherald --version     the version\n\n"
	      "An option --log-level is also the key log_level of the YAML file (-c FILE) and the\n"
	      "environment variable PGHERALD_LOG_LEVEL; flags override variables, these the file.\n"
	      "Exit codes: 0 done, 1 failed, 64 usage, 69 slot in use, 76 slot lost, 78 "
	      "configuration.\n"
	      "More in pgherald(1) and pgherald.yaml(5).\n",
	      f);
}
