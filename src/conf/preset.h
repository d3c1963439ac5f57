/*
 * Presets: what people who come from another program have already. A preset is a table of its words
 * (flags and environment variables), each standing for one of our options, and of options that
 * are otherwise unset. One whose users have a YAML file of other keys has a function beside the
 * tables that reads it. To add one is to add a row of presets.
 */
#ifndef PGHERALD_PRESET_H
#define PGHERALD_PRESET_H

#include "base/strbuf.h"
#include "conf/settings.h"

struct preset;
struct preset_word;

/* The preset that the arguments or PGHERALD_PRESET name; NULL in *preset when none is. */
int preset_find(const struct preset **preset, int argc, char **argv, struct err *err) MUST_CHECK;

/* The word that a flag stands for, without its dashes: pg_host and pghost are one. NULL: none, or
 * no preset. */
const struct preset_word *preset_flag(const struct preset *p, struct str name);

/* Takes a word's value. CONFIG with what is wrong, without the name. */
int preset_set(struct settings *s, const struct preset_word *word, const char *value,
	       struct err *err) MUST_CHECK;

/* Takes what the environment says in the preset's words. */
int preset_environment(const struct preset *p, struct settings *s, struct err *err) MUST_CHECK;

/* The file that is read when none is named; NULL: none. */
const char *preset_file(const struct preset *p);

/* Reads the configuration file in the preset's own keys; false when it has none, and the file is as
 * ours. */
bool preset_has_document(const struct preset *p);
int preset_document(const struct preset *p, struct settings *s, const char *name, struct str text,
		    struct err *err) MUST_CHECK;

/* The readers of such files. */
int preset_read_wal_listener(struct settings *s, const char *name, struct str text,
			     struct err *err) MUST_CHECK;
int preset_read_pgwalstreams(struct settings *s, const char *name, struct str text,
			     struct err *err) MUST_CHECK;

/* Appends a value as it stands in a conninfo: 'it\'s'. */
void preset_quote(struct strbuf *out, const char *value);

/* Once all has been read: adds the output that the words name when there is no other, and sets what
 * is unset. Inheritance has to follow. */
int preset_finish(const struct preset *p, struct settings *s, struct err *err) MUST_CHECK;

#endif
