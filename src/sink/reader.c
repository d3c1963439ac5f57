#include "sink/reader.h"

#include "conf/options.h"

#include <stdlib.h>

#define READER(name) extern const struct reader_driver reader_##name;
#include "readers.inc"
#undef READER

#define READER(name) &reader_##name,
const struct reader_driver *const readers[] = {
#include "readers.inc"
	NULL
};

static const struct reader_driver *find(const char *scheme)
{
	for (size_t i = 0; readers[i]; i++)
		for (const char *const *s = readers[i]->schemes; *s; s++)
			if (strcmp(*s, scheme) == 0)
				return readers[i];
	return NULL;
}

static const struct sink_param *find_row(const struct reader_driver *d, const char *name)
{
	for (const struct sink_param *row = d->params; row->name; row++)
		if (strcmp(row->name, name) == 0)
			return row;
	return NULL;
}

/* Those of outputs are let through, so that one URL serves both. */
static int check_params(const struct reader *r, struct err *err)
{
	for (size_t i = 0; i < r->url.nparams; i++) {
		const char *name = r->url.params[i].name;
		const struct option *o = options_find(str_c(name), 0);

		const struct sink_param *row = find_row(r->driver, name);

		if (row && param_check(row, &r->url.params[i], err))
			return err_add(err, "%s", name);
		if (!row && !driver_has_param(r->url.scheme, name) && !(o && option_of_output(o)))
			return err_set(err, ERR_CONFIG, "%s: has no parameter \"%.50s\"",
				       r->url.scheme, name);
	}
	return 0;
}

int reader_open(struct reader *r, const char *url, struct err *err)
{
	if (url_parse(&r->url, &r->arena, url, err))
		return -1;
	r->driver = find(r->url.scheme);
	if (!r->driver && driver_check_scheme(r->url.scheme, err))
		return -1;
	if (!r->driver)
		return err_set(err, ERR_CONFIG, "nothing can be read from \"%s:\"", r->url.scheme);
	if (check_params(r, err))
		return -1;
	r->state = arena_alloc(&r->arena, r->driver->state_size);
	return r->driver->open(r, err);
}

void reader_close(struct reader *r)
{
	if (r->state)
		r->driver->close(r);
	arena_release(&r->arena);
}

const char *reader_text(const struct reader *r, const char *name)
{
	const char *value = url_param(&r->url, name);

	return value ? value : find_row(r->driver, name)->def;
}

bool reader_from_beginning(const struct reader *r)
{
	return strcmp(reader_text(r, "from"), "beginning") == 0;
}

/* Takes the text up to the separator off the front; the braces of a variable hold none. */
static struct str next_level(struct str *rest, char separator)
{
	struct str level = { rest->p, 0 };
	bool inside = false;

	for (; level.n < rest->n && (inside || !separator || rest->p[level.n] != separator); level.n++)
		inside = rest->p[level.n] == '{' || (inside && rest->p[level.n] != '}');
	*rest = str_from(*rest, level.n + (level.n < rest->n));
	return level;
}

/* Each variable becomes a *. */
static void put_glob(struct strbuf *out, struct str text)
{
	for (size_t i = 0; i < text.n; i++) {
		const char *end = text.p[i] == '{' ? memchr(text.p + i, '}', text.n - i) : NULL;

		strbuf_ch(out, end ? '*' : text.p[i]);
		i = end ? (size_t)(end - text.p) : i;
	}
}

const char *reader_addresses(struct reader *r, const struct sink_driver *d, char separator, char level)
{
	const char *template = driver_address(d, &r->url), *result;
	struct str rest = str_c(template), part;
	struct strbuf out = { 0 };

	if (r->keys)
		return r->keys;
	if (strcmp(template, d->address) == 0)
		return "";
	while (rest.n) {
		part = next_level(&rest, separator);
		if (out.n)
			strbuf_ch(&out, separator);
		if (level && part.n && memchr(part.p, '{', part.n))
			strbuf_ch(&out, level);
		else
			put_glob(&out, part);
	}
	result = arena_copy(&r->arena, out.p, out.n);
	strbuf_release(&out);
	return result;
}
