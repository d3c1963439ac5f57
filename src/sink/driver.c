#include "sink/driver.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The build makes two lists of meson.build's table of drivers. */
#define DRIVER(name) extern const struct sink_driver sink_##name;
#define MISSING(name, schemes)
#include "drivers.inc"
#undef DRIVER
#undef MISSING

#define DRIVER(name) &sink_##name,
#define MISSING(name, schemes)
const struct sink_driver *const sink_drivers[] = {
#include "drivers.inc"
	NULL
};
#undef DRIVER
#undef MISSING

#define DRIVER(name)
#define MISSING(name, schemes) #name,
const char *const sink_missing[] = {
#include "drivers.inc"
	NULL
};
#undef MISSING

#define MISSING(name, schemes) " " schemes " ",
static const char *const missing_schemes[] = {
#include "drivers.inc"
	NULL
};

static int unknown(const char *scheme, struct err *err)
{
	char word[34];

	snprintf(word, sizeof(word), " %.31s ", scheme);
	for (size_t i = 0; sink_missing[i]; i++)
		if (strstr(missing_schemes[i], word))
			return err_set(
				err, ERR_CONFIG,
				"this build has no %s; build it where that client library is "
				"installed (see HACKING.md)",
				sink_missing[i]);
	return err_set(err, ERR_CONFIG,
		       "no output has the scheme \"%s:\"; see pgherald stream --help", scheme);
}

static const struct sink_driver *find(const char *scheme)
{
	for (size_t i = 0; sink_drivers[i]; i++)
		for (const char *const *s = sink_drivers[i]->schemes; *s; s++)
			if (strcmp(*s, scheme) == 0)
				return sink_drivers[i];
	return NULL;
}

static bool row_matches(const struct sink_param *row, const char *name)
{
	size_t n = strlen(row->name);

	if (row->name[n - 1] == '*')
		return strncmp(row->name, name, n - 1) == 0 && name[n - 1];
	return strcmp(row->name, name) == 0;
}

static const struct sink_param *find_row(const struct sink_driver *d, const char *name)
{
	for (const struct sink_param *row = d->params; row && row->name; row++)
		if (row_matches(row, name))
			return row;
	return NULL;
}

int driver_check_scheme(const char *scheme, struct err *err)
{
	return find(scheme) ? 0 : unknown(scheme, err);
}

bool driver_has_param(const char *scheme, const char *name)
{
	const struct sink_driver *d = find(scheme);

	return d && find_row(d, name);
}

static bool is_choice(const char *choices, const char *value)
{
	size_t n = strlen(value);

	for (const char *at = choices; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
		if (strcspn(at, "|") == n && memcmp(at, value, n) == 0)
			return true;
	return false;
}

static bool is_int(const struct sink_param *row, const char *value)
{
	char *end;
	long long v = strtoll(value, &end, 10);

	return isdigit((unsigned char)*value) && !*end && v >= row->min && v <= row->max;
}

int param_check(const struct sink_param *row, struct url_param *p, struct err *err)
{
	const char *value = p->value;
	size_t n = strlen(value);

	switch (row->type) {
	case PARAM_TEXT:
	case PARAM_FILE:
		if ((int64_t)n < row->min || (int64_t)n > row->max)
			return err_set(err, ERR_CONFIG, "its length is not from %lld to %lld",
				       (long long)row->min, (long long)row->max);
		if (row->type == PARAM_FILE && access(value, R_OK) != 0)
			return err_set(err, ERR_CONFIG, "cannot read %s: %s", value, strerror(errno));
		return 0;
	case PARAM_INT:
		if (!is_int(row, value))
			return err_set(err, ERR_CONFIG,
				       "\"%.50s\" is not a whole number from %lld to %lld", value,
				       (long long)row->min, (long long)row->max);
		return 0;
	case PARAM_BOOL:
		if (!is_choice("true|false|1|0", value))
			return err_set(err, ERR_CONFIG, "\"%.50s\" is neither true nor false", value);
		if (n == 1)
			p->value = *value == '1' ? "true" : "false";
		return 0;
	case PARAM_CHOICE:
		if (!is_choice(row->arg, value))
			return err_set(err, ERR_CONFIG, "\"%.50s\" is not one of %s", value,
				       row->arg);
		return 0;
	}
	return 0;
}

static int unknown_param(const struct sink_driver *d, const char *name, struct err *err)
{
	struct strbuf names = { 0 };

	for (const struct sink_param *row = d->params; row && row->name; row++)
		strbuf_printf(&names, "%s%s", names.n ? ", " : "", row->name);
	err_set(err, ERR_CONFIG,
		"%s: has no parameter \"%.50s\"; there are %s%sthe options of outputs", d->name,
		name, names.n ? strbuf_cstr(&names) : "", names.n ? " and " : "");
	strbuf_release(&names);
	return -1;
}

static int check_params(const struct sink_driver *d, struct url *url, struct err *err)
{
	for (size_t i = 0; i < url->nparams; i++) {
		const struct sink_param *row = find_row(d, url->params[i].name);

		if (!row)
			return unknown_param(d, url->params[i].name, err);
		if (param_check(row, &url->params[i], err))
			return err_add(err, "%s", url->params[i].name);
	}
	return 0;
}

const struct sink_driver *driver_find(struct url *url, struct arena *arena, const char *text,
				      struct err *err)
{
	const struct sink_driver *d;

	if (url_parse(url, arena, text, err))
		return NULL;
	if (driver_check_scheme(url->scheme, err))
		return NULL;
	d = find(url->scheme);
	return check_params(d, url, err) || (d->check && d->check(url, err)) ? NULL : d;
}

const char *driver_text(const struct sink_driver *d, const struct url *url, const char *name)
{
	const char *value = url_param(url, name);

	return value ? value : find_row(d, name)->def;
}

void driver_rest(const struct sink_driver *d, const struct url *url, struct strbuf *out)
{
	struct str query = str_c(strchr(url->text, '?')), name, value;
	struct arena arena = { 0 };
	char sep = '?';

	strbuf_add(out, url->text, strcspn(url->text, "?"));
	query = str_from(query, query.n > 0);
	while (url_query_next(&query, &name, &value)) {
		const char *plain = url_decode(&arena, name);

		if (plain && strcmp(find_row(d, plain)->name, "*") != 0)
			continue;
		strbuf_ch(out, sep);
		strbuf_add(out, name.p, (size_t)(value.p + value.n - name.p));
		sep = '&';
	}
	arena_release(&arena);
}

const char *driver_address(const struct sink_driver *d, const struct url *url)
{
	size_t at = d->address_at ? d->address_at(url) : 1;

	if (d->address_in_path && strlen(url->path) > at)
		return url->path + at;
	return d->address ? d->address : "";
}
