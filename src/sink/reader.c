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

		if (!find_row(r->driver, name) && !driver_has_param(r->url.scheme, name) &&
		    !(o && option_of_output(o)))
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
