#include "conf/document.h"

#include "base/strbuf.h"
#include "conf/outputs.h"
#include "conf/yaml.h"

struct document {
	const char *name;
	struct settings *s;
	struct err *err;
};

/* Puts place and key before the message; always -1. */
static int wrong(struct document *d, const struct yaml *node)
{
	if (node->key)
		err_add(d->err, "%s", node->key);
	return err_add(d->err, "%s:%d", d->name, node->line);
}

static int wrong_kind(struct document *d, const struct yaml *node, const char *right)
{
	static const char *const kinds[] = { "a single value", "a list", "a mapping" };

	err_set(d->err, ERR_CONFIG, "it is %s; it must be %s",
		node->absent ? "empty" : kinds[node->kind], right);
	return wrong(d, node);
}

static int unknown_key(struct document *d, const struct yaml *node)
{
	const struct option *like = options_suggest(str_c(node->key), NULL);
	char hint[80] = "";

	if (node->absent)
		snprintf(hint, sizeof(hint), "; text that ends with a colon must be in quotes");
	else if (like && !(like->flags & OPTION_FLAG_ONLY))
		snprintf(hint, sizeof(hint), "; did you mean %s?", like->name);
	for (char *c = hint; *c; c++)
		*c = *c == '-' ? '_' : *c;
	err_set(d->err, ERR_CONFIG, "there is no such key%s",
		*hint ? hint : "; --print-config shows those there are");
	return wrong(d, node);
}

/* A list's item, or NAME=VALUE for that of a mapping. */
static const char *item_text(struct document *d, const struct yaml *item)
{
	struct strbuf pair = { 0 };
	const char *text = item->text;

	if (item->key) {
		strbuf_printf(&pair, "%s=%s", item->key, item->text);
		text = arena_copy(&d->s->arena, pair.p, pair.n);
		strbuf_release(&pair);
	}
	return text;
}

static int read_items(struct document *d, const struct yaml *node, struct strings *items)
{
	size_t n = 0;

	for (const struct yaml *y = node->first; y; y = y->next) {
		if (y->kind != YAML_SCALAR || y->absent)
			return wrong_kind(d, y, "a single value");
		n++;
	}
	items->v = arena_alloc(&d->s->arena, n * sizeof(*items->v));
	for (const struct yaml *y = node->first; y; y = y->next)
		items->v[items->n++] = item_text(d, y);
	return 0;
}

/* A value into the option's field. */
static int read_value(struct document *d, const struct yaml *node, const struct option *o, void *at)
{
	enum yaml_kind many = o->type == OPTION_PAIRS ? YAML_MAP : YAML_LIST;
	struct strings items = { 0 };
	int failed;

	if (node->absent || (node->kind != YAML_SCALAR && (!option_is_list(o) || node->kind != many)))
		return wrong_kind(d, node,
				  !option_is_list(o)  ? "a single value"
				  : many == YAML_LIST ? "a list or text with commas"
						      : "a mapping");
	if (node->kind == YAML_SCALAR) {
		failed = option_set(o, at, &d->s->arena, str_c(node->text), d->err);
	} else {
		if (read_items(d, node, &items))
			return -1;
		failed = option_set_list(o, at, &d->s->arena, items, d->err);
	}
	return failed ? wrong(d, node) : 0;
}

static const struct option *find_key(const struct yaml *node)
{
	const struct option *o = options_find(str_c(node->key), '_');

	return o && o->flags & OPTION_FLAG_ONLY ? NULL : o;
}

static int read_url(struct document *d, const struct yaml *node, struct output_settings *os)
{
	if (node->kind != YAML_SCALAR || node->absent)
		return wrong_kind(d, node, "a URL in quotes, such as \"file:/var/log/app.json\"");
	return outputs_set_url(d->s, os, str_c(node->text), d->err) ? wrong(d, node) : 0;
}

static int read_output_key(struct document *d, const struct yaml *node, struct output_settings *os)
{
	const struct option *o = find_key(node);

	if (!o)
		return unknown_key(d, node);
	if (o->type == OPTION_OUTPUT)
		return read_url(d, node, os);
	if (option_of_output(o))
		return read_value(d, node, o, outputs_field(os, o));
	err_set(d->err, ERR_CONFIG, "it is for all outputs; put it at the top level");
	return wrong(d, node);
}

/* One output: a mapping, or its URL alone. */
static int read_output(struct document *d, const struct yaml *node)
{
	struct output_settings *os = outputs_add(d->s, d->err);

	if (!os)
		return wrong(d, node);
	if (node->kind != YAML_MAP)
		return read_url(d, node, os);
	for (const struct yaml *y = node->first; y; y = y->next)
		if (read_output_key(d, y, os))
			return -1;
	if (os->to)
		return 0;
	err_set(d->err, ERR_CONFIG, "the output has no \"to\", which is its URL in quotes");
	return wrong(d, node);
}

static int read_outputs(struct document *d, const struct yaml *node)
{
	if (node->kind != YAML_LIST)
		return read_output(d, node);
	for (const struct yaml *y = node->first; y; y = y->next)
		if (read_output(d, y))
			return -1;
	return 0;
}

static int read_key(struct document *d, const struct yaml *node)
{
	const struct option *o = find_key(node);

	if (strcmp(node->key, "outputs") == 0 || (o && o->type == OPTION_OUTPUT))
		return read_outputs(d, node);
	return o ? read_value(d, node, o, (char *)d->s + o->at) : unknown_key(d, node);
}

int document_read(struct settings *s, const char *name, struct str text, struct err *err)
{
	struct document d = { name, s, err };
	struct yaml *root;

	if (yaml_tree(&root, &s->arena, name, text, err))
		return -1;
	if (!root || root->absent)
		return 0;
	if (root->kind != YAML_MAP)
		return wrong_kind(&d, root, "a mapping of keys to values");
	for (const struct yaml *y = root->first; y; y = y->next)
		if (read_key(&d, y))
			return -1;
	outputs_inherit(s);
	return 0;
}
