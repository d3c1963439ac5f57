/*
 * Threads that had to be left behind because they did not end: they still use what exit() would
 * tear down, so a program that has left any ends by _exit.
 */
#ifndef PGHERALD_LEFT_H
#define PGHERALD_LEFT_H

#include <stdbool.h>

void left_note(void);
bool left_any(void);

#endif
