/* Settings from YAML. */
#ifndef PGHERALD_DOCUMENT_H
#define PGHERALD_DOCUMENT_H

#include "conf/settings.h"

/* Reads YAML text over what is in s. name is the file's for messages: CONFIG "NAME:LINE: key: what
 * is wrong and what would be right". */
int document_read(struct settings *s, const char *name, struct str text, struct err *err) MUST_CHECK;

#endif
