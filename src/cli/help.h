/* --help, from the tables of verbs and options. */
#ifndef PGHERALD_HELP_H
#define PGHERALD_HELP_H

#include "cli/verbs.h"

#include <stdio.h>

/* Of the program. */
void help_program(FILE *f);

/* Of a verb: at most 40 lines of at most 100 columns. */
void help_verb(FILE *f, const struct verb *v);

/* The first scheme of each destination, and those that this build lacks. */
void help_drivers(FILE *f, const char *before, const char *behind);

#endif
