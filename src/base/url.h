/*
 * URLs of outputs: SCHEME:PATH or SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]]...[/PATH],
 * both with an optional ?NAME=VALUE&NAME=VALUE. %XX is decoded everywhere but in the scheme; a
 * plus sign is a plus sign.
 */
#ifndef PGHERALD_URL_H
#define PGHERALD_URL_H

#include "base/err.h"
#include "base/mem.h"
#include "base/strbuf.h"

struct url_host {
	const char *host; /* without the brackets of an IPv6 address */
	int port;         /* 0: none given */
};

struct url_param {
	const char *name;
	const char *value; /* "" when there was no = */
};

struct url {
	const char *text;     /* all of it, as it was given */
	const char *scheme;   /* lower case */
	const char *user;     /* NULL: none */
	const char *password; /* NULL: none */
	struct url_host *hosts;
	size_t nhosts;    /* 0 without // or with an empty authority as in file:///x */
	const char *path; /* "" or what follows, with its leading slash */
	struct url_param *params;
	size_t nparams;
};

/* Everything is copied into the arena. CONFIG with what is wrong; the message shows no part that
 * may be secret. */
int url_parse(struct url *u, struct arena *arena, const char *text, struct err *err) MUST_CHECK;

/* The value of a query parameter, the last one of that name, or NULL. */
const char *url_param(const struct url *u, const char *name);

/* Takes the next NAME=VALUE, still encoded, off the front of a query; false at its end. */
bool url_query_next(struct str *query, struct str *name, struct str *value);

/* Decodes %XX. NULL when it is malformed or has a NUL. */
const char *url_decode(struct arena *arena, struct str s);

/* Appends the text so that it can stand in a query. */
void url_encode(struct strbuf *out, struct str text);

/* Appends what a header may hold: visible ASCII as it is, all else, % and " as % and two hex digits. */
void url_escape_header(struct strbuf *out, struct str text);

/* Whether a parameter of this name holds a secret (password, token ...). */
bool url_is_secret(struct str name);

/* Appends the URL with passwords, lone user names (which are tokens at some brokers; not
 * PostgreSQL's) and secret parameters as "***". For anything that is shown to somebody; takes any
 * text, and rather hides too much of a malformed one. */
void url_mask(struct strbuf *out, struct str url);

#endif
