/*
 * Readers, the other end of outputs: they take messages from a destination, to be looked at. One
 * file for each destination that has one, NAME_reader.c; the build lists them.
 */
#ifndef PGHERALD_READER_H
#define PGHERALD_READER_H

#include "sink/driver.h"

/* Borrowed until the next call. Each may be empty. */
struct reader_message {
	struct str address, id, body;
	struct str encoding; /* the body's content-encoding */
};

struct reader {
	const struct reader_driver *driver;
	struct url url;
	const char *keys; /* addresses wanted, separated by commas; NULL: all */
	int64_t limit;    /* no more messages than this are wanted; 0: no limit */
	struct arena arena;
	void *state;
};

struct reader_driver {
	const char *name;
	const char *const *schemes;      /* NULL-terminated */
	const char *help;                /* one line */
	const struct sink_param *params; /* ends with a zeroed row */
	size_t state_size;               /* zeroed in r->state */

	int (*open)(struct reader *r, struct err *err);

	/* Waits up to timeout_ms or until a signal comes: 1 with a message, 0 without. */
	int (*next)(struct reader *r, int timeout_ms, struct reader_message *m, struct err *err);

	/* The last message has been shown and need not come again. May be NULL. */
	int (*done)(struct reader *r, struct err *err);

	void (*close)(struct reader *r); /* also after a failed open */
};

/* The readers of this build, NULL-terminated. */
extern const struct reader_driver *const readers[];

/* Finds the driver and opens it; `r` has keys and limit. CONFIG with what is wrong in the URL,
 * which may have the parameters of an output too. */
int reader_open(struct reader *r, const char *url, struct err *err) MUST_CHECK;
void reader_close(struct reader *r);

/* A parameter's value or its default; NULL when unset. The row must exist. */
const char *reader_text(const struct reader *r, const char *name);

/* The row of those that can begin with what is there, and whether that is wanted. */
#define PARAM_FROM                                                                                 \
	{                                                                                          \
		"from", PARAM_CHOICE, "beginning|end", "end", 0, 0,                                \
			"begin with the first message there is, or with the next one that comes"   \
	}
bool reader_from_beginning(const struct reader *r);

/* The addresses wanted: the keys or, without these, what the output with this URL writes to. A
 * level (what `separator` stands between; 0: there are none) that its template makes of values is a
 * * or, with `level`, that. Separated by commas; empty: all. The result is r's. */
const char *reader_addresses(struct reader *r, const struct sink_driver *d, char separator,
			     char level);

#endif
