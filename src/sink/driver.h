/*
 * What a destination is: one file, one table of functions and parameters. The build lists the
 * drivers (meson.build); nothing outside a driver's file knows its client library.
 */
#ifndef PGHERALD_DRIVER_H
#define PGHERALD_DRIVER_H

#include "base/err.h"
#include "base/url.h"
#include "sink/batch.h"

struct sink;
struct header_style;
struct mark;

enum param_type {
	PARAM_TEXT,   /* min..max bytes */
	PARAM_FILE,   /* likewise, and the name of a file that can be read */
	PARAM_INT,    /* min..max */
	PARAM_BOOL,   /* true or false, or 1 or 0 */
	PARAM_CHOICE, /* one of arg, "a|b" */
};

/* A parameter of the driver's URLs. A name that ends in * stands for all that begin so; the row
 * "*", the last one, for those that are not the driver's own but of what it speaks to. */
struct sink_param {
	const char *name;
	enum param_type type;
	const char *arg; /* what the value is called, for people */
	const char *def; /* NULL: unset */
	int64_t min, max;
	const char *help; /* one line */
};

/* CONFIG for a value that the row does not allow. Of a PARAM_BOOL, 1 and 0 become true and false. */
int param_check(const struct sink_param *row, struct url_param *p, struct err *err) MUST_CHECK;

/* Rows that every driver with TLS has. */
#define PARAMS_TLS                                                                                 \
	{ "ca",                                                                                    \
	  PARAM_FILE,                                                                              \
	  "FILE",                                                                                  \
	  NULL,                                                                                    \
	  1,                                                                                       \
	  4096,                                                                                    \
	  "trust this certificate authority; default: the system's" },                             \
		{ "cert", PARAM_FILE, "FILE", NULL, 1, 4096, "client certificate" },               \
	{                                                                                          \
		"cert_key", PARAM_FILE, "FILE", NULL, 1, 4096, "its private key"                   \
	}

struct sink_driver {
	const char *name;                /* "nats"; what --version shows */
	const char *const *schemes;      /* NULL-terminated */
	const char *help;                /* one line: "file:PATH  appends lines" */
	const struct sink_param *params; /* ends with a zeroed row; NULL: none */

	const char *address;  /* template of addresses when none is given; NULL: has none */
	bool address_in_path; /* the URL's path, without its first slash, is the template */
	size_t (*address_at)(const struct url *url); /* or from here on; NULL: 1 */
	bool (*address_plain)(unsigned char c);      /* see flow/template.h */
	char address_escape;
	/* What it holds ends with one position, whoever wrote it: messages of several orders (the
	 * partitions of a subscription) cannot be told apart. */
	bool one_order;
	bool keys;      /* messages have keys */
	bool nulls;     /* and may have no body, which deletes the key */
	bool key_order; /* and it alone keeps their order: an update that changes the key is given
			 * none, so that it is before and behind all of either key */
	const struct header_style *headers; /* NULL: messages have none */
	bool compressed; /* messages may be; sink->content_encoding says so to the receiver */

	uint32_t max_in_flight; /* messages not taken, when the user says nothing; 0: no limit */
	size_t state_size;      /* zeroed before each open, in sink->state */

	/* Looks at the URL before anything is started; may be NULL. */
	int (*check)(const struct url *url, struct err *err);

	/* Connects. Sets sink->held to the last position the destination holds of sink->origin, and
	 * sink->mark to what it remembers, where it can know. Called again after a failure, once
	 * close has been called. RETRY for what passes; CONFIG for what the user has to mend. */
	int (*open)(struct sink *s, struct err *err);

	/* Sends messages [from, to), never more than the window has room for. The batch stays valid
	 * until all of it is taken. */
	int (*send)(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		    struct err *err);

	/* Waits up to timeout_ms (-1: for ever) for acknowledgements; returns when some came, or
	 * early when sink->wake is readable. NULL: what was sent is taken. */
	int (*poll)(struct sink *s, int timeout_ms, struct err *err);

	/* Everything that can be made durable now is (towards the end). May be NULL. */
	int (*flush)(struct sink *s, struct err *err);

	/* Remembers this durably. NULL: the destination has no place for it. */
	int (*mark)(struct sink *s, const struct mark *m, struct err *err);

	/* Also after a failed open. */
	void (*close)(struct sink *s);
};

/* The drivers of this build, and the names of those it lacks; both NULL-terminated. */
extern const struct sink_driver *const sink_drivers[];
extern const char *const sink_missing[];

/* Parses the URL into the arena and finds its driver; checks its parameters. CONFIG with what is
 * wrong; the message shows no secret. */
const struct sink_driver *driver_find(struct url *url, struct arena *arena, const char *text,
				      struct err *err) MUST_CHECK;

/* CONFIG where no driver of this build has the scheme. */
int driver_check_scheme(const char *scheme, struct err *err) MUST_CHECK;

/* Whether outputs of this scheme have the parameter. */
bool driver_has_param(const char *scheme, const char *name);

/* A parameter's value or its default; NULL when unset. The row must exist. */
const char *driver_text(const struct sink_driver *d, const struct url *url, const char *name);

/* Appends the URL as it was given, without the parameters that are the driver's own. */
void driver_rest(const struct sink_driver *d, const struct url *url, struct strbuf *out);

/* The template of addresses that the URL names, or the driver's own; "" where it has none. */
const char *driver_address(const struct sink_driver *d, const struct url *url);

#endif
