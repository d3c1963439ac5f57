#include "base/url.h"

#include <ctype.h>
#include <strings.h>

/* The value of a hex digit, or -1. */
static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that two hex digits behind a % say, or 0. */
static int hex_byte(struct str s)
{
	int high = s.n > 2 ? hex_digit(s.p[1]) : -1, low = s.n > 2 ? hex_digit(s.p[2]) : -1;

	return high < 0 || low < 0 ? 0 : high * 16 + low;
}

const char *url_decode(struct arena *arena, struct str s)
{
	char *copy = arena_alloc(arena, s.n + 1);
	size_t n = 0;

	while (s.n) {
		bool encoded = s.p[0] == '%';
		int c = encoded ? hex_byte(s) : s.p[0];

		if (c == 0)
			return NULL;
		copy[n++] = (char)c;
		s = str_from(s, encoded ? 3 : 1);
	}
	return copy;
}

/* Takes what stands before the first `sep` (or all) off the front of *s. */
static struct str take_until(struct str *s, char sep)
{
	const char *at = s->n ? memchr(s->p, sep, s->n) : NULL;
	struct str head = { s->p, at ? (size_t)(at - s->p) : s->n };

	*s = str_from(*s, head.n + (at ? 1 : 0));
	return head;
}

bool url_query_next(struct str *query, struct str *name, struct str *value)
{
	while (query->n) {
		*value = take_until(query, '&');
		*name = take_until(value, '=');
		if (name->n)
			return true;
	}
	return false;
}

static int decode(const char **out, struct arena *arena, struct str s, const char *what,
		  struct err *err)
{
	*out = url_decode(arena, s);
	if (*out)
		return 0;
	return err_set(err, ERR_CONFIG,
		       "%s has a %% that is not followed by two hex digits; "
		       "a percent sign itself is %%25",
		       what);
}

static size_t count(struct str s, char c)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++)
		n += s.p[i] == c;
	return n;
}

static int parse_port(int *port, struct str s, struct err *err)
{
	int v = 0;

	for (size_t i = 0; i < s.n && v <= 65535; i++) {
		if (!isdigit((unsigned char)s.p[i]))
			v = 65536;
		v = v * 10 + s.p[i] - '0';
	}
	if (s.n == 0 || v < 1 || v > 65535)
		return err_set(err, ERR_CONFIG, "the port is not a number from 1 to 65535");
	*port = v;
	return 0;
}

static int parse_host(struct url_host *h, struct arena *arena, struct str s, struct err *err)
{
	struct str host;
	bool port;

	if (s.n && s.p[0] == '[') {
		host = str_from(s, 1);
		s = host;
		host = take_until(&s, ']');
		if (host.p + host.n == s.p || (s.n && s.p[0] != ':'))
			return err_set(err, ERR_CONFIG, "an address in brackets is not closed");
		port = s.n > 0;
		s = str_from(s, port);
	} else {
		port = s.n && memchr(s.p, ':', s.n);
		host = take_until(&s, ':');
	}
	if (host.n == 0)
		return err_set(err, ERR_CONFIG, "a host is empty");
	if (decode(&h->host, arena, host, "the host", err))
		return -1;
	return port ? parse_port(&h->port, s, err) : 0;
}

static int parse_authority(struct url *u, struct arena *arena, struct str s, struct err *err)
{
	const char *at = s.n ? memrchr(s.p, '@', s.n) : NULL;

	if (at) {
		struct str password = { s.p, (size_t)(at - s.p) };
		struct str user = take_until(&password, ':');

		if (decode(&u->user, arena, user, "the user", err) ||
		    (user.p + user.n < at &&
		     decode(&u->password, arena, password, "the password", err)))
			return -1;
		s = str_from(s, (size_t)(at + 1 - s.p));
	}
	if (s.n == 0)
		return at ? err_set(err, ERR_CONFIG, "a host is missing behind the @") : 0;
	u->hosts = arena_alloc(arena, (count(s, ',') + 1) * sizeof(*u->hosts));
	do {
		if (parse_host(&u->hosts[u->nhosts++], arena, take_until(&s, ','), err))
			return -1;
	} while (s.n);
	return 0;
}

static int parse_query(struct url *u, struct arena *arena, struct str query, struct err *err)
{
	struct str name, value;

	u->params = arena_alloc(arena, (count(query, '&') + 1) * sizeof(*u->params));
	while (url_query_next(&query, &name, &value)) {
		struct url_param *p = &u->params[u->nparams++];

		if (decode(&p->name, arena, name, "a parameter's name", err) ||
		    decode(&p->value, arena, value, p->name, err))
			return -1;
	}
	return 0;
}

/* The length of a scheme (RFC 3986, 3.1) before a colon; 0 when there is none. */
static size_t scheme_len(struct str s)
{
	size_t n = 0;

	while (n < s.n && (isalpha((unsigned char)s.p[n]) ||
			   (n && (isdigit((unsigned char)s.p[n]) || strchr("+-.", s.p[n])))))
		n++;
	return n < s.n && s.p[n] == ':' ? n : 0;
}

int url_parse(struct url *u, struct arena *arena, const char *text, struct err *err)
{
	struct str rest = { text, strlen(text) }, path, authority;
	size_t n = scheme_len(rest);
	char *scheme;

	*u = (struct url){ .text = arena_copy(arena, text, strlen(text)) };
	if (n == 0)
		return err_set(err, ERR_CONFIG, "it has no scheme, such as file: or stdout:");
	scheme = arena_copy(arena, text, n);
	for (char *c = scheme; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	u->scheme = scheme;
	rest = str_from(rest, n + 1);
	path = take_until(&rest, '?');
	if (str_starts(path, STR("//"))) {
		authority = str_from(path, 2);
		path = authority;
		take_until(&path, '/');
		authority.n -= path.n;
		if (authority.n && authority.p[authority.n - 1] == '/') {
			authority.n--;
			path = (struct str){ path.p - 1, path.n + 1 };
		}
		if (parse_authority(u, arena, authority, err))
			return -1;
	}
	if (decode(&u->path, arena, path, "the path", err))
		return -1;
	return parse_query(u, arena, rest, err);
}

const char *url_param(const struct url *u, const char *name)
{
	for (size_t i = u->nparams; i > 0; i--)
		if (strcmp(u->params[i - 1].name, name) == 0)
			return u->params[i - 1].value;
	return NULL;
}

void url_encode(struct strbuf *out, struct str text)
{
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];

		if (isalnum(c) || strchr("-._~", c))
			strbuf_ch(out, (char)c);
		else
			strbuf_printf(out, "%%%02X", c);
	}
}

void url_escape_header(struct strbuf *out, struct str text)
{
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];

		if (c > ' ' && c < 127 && c != '%' && c != '"')
			strbuf_ch(out, (char)c);
		else
			strbuf_printf(out, "%%%02X", c);
	}
}

bool url_is_secret(struct str name)
{
	static const char *const words[] = { "password",
					     "passwd",
					     "secret",
					     "token",
					     "credential",
					     "api_key",
					     "apikey",
					     "access_key",
					     "scram_",
					     "api-key",
					     "authorization",
					     ".pem",
					     "oauthbearer.config",
					     "cookie",
					     "dead_letter" }; /* a URL with secrets of its own */

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		size_t n = strlen(words[i]);

		for (size_t at = 0; at + n <= name.n; at++)
			if (strncasecmp(name.p + at, words[i], n) == 0)
				return true;
	}
	return false;
}

/* Where the user's part ends (at its @), or NULL. An @ behind the authority's end counts when there
 * is none inside: then a password has a slash or a question mark in it that should be encoded. */
static const char *find_at(struct str s)
{
	size_t n = 0;
	const char *at;

	while (n < s.n && s.p[n] != '/' && s.p[n] != '?')
		n++;
	at = n ? memrchr(s.p, '@', n) : NULL;
	return at || s.n == 0 ? at : memrchr(s.p, '@', s.n);
}

static void mask_query(struct strbuf *out, struct str query)
{
	struct str name, value;
	char sep = '?';

	while (url_query_next(&query, &name, &value)) {
		strbuf_ch(out, sep);
		strbuf_str(out, name);
		if (value.p > name.p + name.n) {
			strbuf_ch(out, '=');
			strbuf_str(out, url_is_secret(name) ? STR("***") : value);
		}
		sep = '&';
	}
}

/* All behind a word like password= is hidden: connections may be given as keywords, by mistake. */
static void mask_path(struct strbuf *out, struct str path)
{
	while (path.n) {
		struct str word = take_until(&path, ' '), value = word,
			   name = take_until(&value, '=');

		if (url_is_secret(name) && (name.n < word.n || str_starts(path, STR("=")))) {
			strbuf_str(out, name);
			strbuf_lit(out, "=***");
			return;
		}
		strbuf_str(out, word);
		strbuf_str(out, path.p > word.p + word.n ? STR(" ") : STR(""));
	}
}

void url_mask(struct strbuf *out, struct str url)
{
	size_t n = scheme_len(url);
	bool postgres = str_starts(url, STR("postgres"));
	struct str rest = str_from(url, n ? n + 1 : 0), user;
	const char *at;

	if (n && str_starts(rest, STR("//"))) {
		rest = str_from(rest, 2);
		at = find_at(rest);
		if (at) {
			user = (struct str){ rest.p, (size_t)(at - rest.p) };
			rest = str_from(rest, user.n);
			strbuf_add(out, url.p, (size_t)(user.p - url.p));
			if (memchr(user.p, ':', user.n)) {
				strbuf_str(out, take_until(&user, ':'));
				strbuf_lit(out, ":***");
			} else {
				strbuf_str(out, postgres ? user : STR("***"));
			}
			url = rest;
		}
	}
	mask_path(out, take_until(&url, '?'));
	mask_query(out, url);
}
