/* The command line as others see it, in ps and the like. */
#ifndef PGHERALD_TITLE_H
#define PGHERALD_TITLE_H

/* Takes the secrets out of main's arguments: a copy of them as they were, which lives as long as
 * the process. They can be read in /proc until this is called: secrets belong in the environment or
 * in the file of settings. */
char **title_hide(int argc, char **argv);

#endif
