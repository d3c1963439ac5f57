#include "conf/yaml.h"

#include "base/strbuf.h"

#include <ctype.h>
#include <stdlib.h>
#include <yaml.h>

#define MAX_DEPTH 16
#define MAX_NODES 10000
#define MAX_BYTES (1u << 20) /* of the text, and again of all scalars with variables replaced */

struct reader {
	yaml_parser_t parser;
	yaml_event_t event; /* the current one */
	struct arena *arena;
	size_t nodes;
	size_t bytes;
	int line;
	struct err *err;
};

static int refuse(struct reader *r, const char *what)
{
	return err_set(r->err, ERR_CONFIG, "%s", what);
}

/* libyaml's own complaint, with a hint for the mistakes that patterns and URLs invite. */
static int syntax_error(struct reader *r)
{
	static const char *const hints[][2] = {
		{ "scanning an alias", "; text that begins with * must be in quotes" },
		{ "scanning a tag", "; text that begins with ! must be in quotes" },
		{ "mapping values", "; text that ends with a colon must be in quotes" },
	};
	const char *context = r->parser.context, *problem = r->parser.problem, *hint = "";

	for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
		if ((context && strstr(context, hints[i][0])) ||
		    (problem && strstr(problem, hints[i][0])))
			hint = hints[i][1];
	r->line = (int)(problem ? r->parser.problem_mark.line : r->parser.mark.line) + 1;
	return err_set(r->err, ERR_CONFIG, "%s%s%s%s", context ? context : "", context ? ": " : "",
		       problem ? problem : "this is not YAML", hint);
}

static int next_event(struct reader *r)
{
	yaml_event_delete(&r->event);
	if (!yaml_parser_parse(&r->parser, &r->event))
		return syntax_error(r);
	r->line = (int)r->event.start_mark.line + 1;
	return 0;
}

/* ${NAME} at the front of *s, which is behind the dollar. */
static int put_variable(struct reader *r, struct strbuf *out, struct str *s)
{
	const char *close = memchr(s->p, '}', s->n), *value;
	struct str name = { s->p + 1, close ? (size_t)(close - s->p) - 1 : 0 };

	for (size_t i = 0; i < name.n; i++)
		if (!isalnum((unsigned char)name.p[i]) && name.p[i] != '_')
			name.n = 0;
	if (name.n == 0 || name.n > 255)
		return refuse(r, "\"${\" must begin the name of an environment variable, as in "
				 "${HOME}; a dollar sign itself is written $$");
	value = getenv(arena_copy(r->arena, name.p, name.n));
	if (!value)
		return err_set(r->err, ERR_CONFIG, "the environment variable %.*s is not set",
			       STR_ARG(name));
	strbuf_str(out, str_c(value));
	*s = str_from(*s, name.n + 2);
	return 0;
}

static int expand(struct reader *r, struct strbuf *out, struct str s)
{
	while (s.n) {
		char c = s.p[0];

		s = str_from(s, 1);
		if (c == '$' && s.n && s.p[0] == '{') {
			if (put_variable(r, out, &s))
				return -1;
		} else {
			strbuf_ch(out, c);
			if (c == '$' && s.n && s.p[0] == '$')
				s = str_from(s, 1);
		}
		if (out->n > r->bytes)
			return refuse(r, "the file with its variables is larger than 1 MiB");
	}
	return 0;
}

static int read_scalar(struct reader *r, struct yaml *node)
{
	struct str s = { (const char *)r->event.data.scalar.value, r->event.data.scalar.length };
	struct strbuf out = { 0 };
	int failed;

	if (s.n && memchr(s.p, '\0', s.n))
		return refuse(r, "a value contains a NUL character");
	failed = expand(r, &out, s);
	if (!failed) {
		r->bytes -= out.n;
		node->text = arena_copy(r->arena, out.p, out.n);
		node->absent = s.n == 0 && r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	}
	strbuf_release(&out);
	return failed;
}

/* The key that the current event is, moving on to its value's event. */
static int read_key(struct reader *r, const struct yaml *map, const char **key)
{
	struct str s = { (const char *)r->event.data.scalar.value, r->event.data.scalar.length };

	if (r->event.type != YAML_SCALAR_EVENT || s.n == 0 || memchr(s.p, '\0', s.n))
		return refuse(r, "a key must be a word");
	for (const struct yaml *y = map->first; y; y = y->next)
		if (str_eq(str_c(y->key), s))
			return err_set(r->err, ERR_CONFIG,
				       "the key %s is there twice, first in "
				       "line %d",
				       y->key, y->line);
	*key = arena_copy(r->arena, s.p, s.n);
	return next_event(r);
}

static int read_node(struct reader *r, struct yaml *node, int depth);

/* The children of a list or a mapping, up to the event that ends it. */
static int read_children(struct reader *r, struct yaml *node, yaml_event_type_t end, int depth)
{
	struct yaml **last = &node->first;

	if (depth == MAX_DEPTH)
		return refuse(r, "it is nested too deeply");
	if (next_event(r))
		return -1;
	while (r->event.type != end) {
		struct yaml *child;
		const char *key = NULL;
		int line = r->line;

		if (node->kind == YAML_MAP && read_key(r, node, &key))
			return -1;
		child = arena_alloc(r->arena, sizeof(*child));
		if (read_node(r, child, depth + 1))
			return key && child->kind == YAML_SCALAR ? err_add(r->err, "%s", key) : -1;
		child->key = key;
		child->line = line;
		*last = child;
		last = &child->next;
		if (next_event(r))
			return -1;
	}
	return 0;
}

/* The node that the current event begins; its last event is current afterwards. */
static int read_node(struct reader *r, struct yaml *node, int depth)
{
	const yaml_event_t *e = &r->event;

	node->line = r->line;
	if (++r->nodes > MAX_NODES)
		return refuse(r, "the file has too many values");
	switch ((int)e->type) {
	case YAML_SCALAR_EVENT:
		if (e->data.scalar.tag)
			return refuse(r, "text that begins with ! must be in quotes");
		if (e->data.scalar.anchor)
			break;
		return read_scalar(r, node);
	case YAML_SEQUENCE_START_EVENT:
		if (e->data.sequence_start.anchor || e->data.sequence_start.tag)
			break;
		node->kind = YAML_LIST;
		return read_children(r, node, YAML_SEQUENCE_END_EVENT, depth);
	case YAML_MAPPING_START_EVENT:
		if (e->data.mapping_start.anchor || e->data.mapping_start.tag)
			break;
		node->kind = YAML_MAP;
		return read_children(r, node, YAML_MAPPING_END_EVENT, depth);
	default:
		break;
	}
	return refuse(r, "anchors, aliases and tags are not taken; write the value itself, in "
			 "quotes if it begins with &, * or !");
}

static int read_document(struct reader *r, struct yaml **root)
{
	*root = NULL;
	do {
		if (next_event(r))
			return -1;
		if (r->event.type == YAML_STREAM_END_EVENT)
			return 0;
	} while (r->event.type != YAML_DOCUMENT_START_EVENT);
	*root = arena_alloc(r->arena, sizeof(**root));
	if (next_event(r) || read_node(r, *root, 0) || next_event(r) || next_event(r))
		return -1;
	return r->event.type == YAML_STREAM_END_EVENT ? 0 : refuse(r, "a second document begins");
}

int yaml_tree(struct yaml **root, struct arena *arena, const char *name, struct str text,
	      struct err *err)
{
	struct reader r = { .arena = arena, .bytes = MAX_BYTES, .line = 1, .err = err };
	int failed;

	if (text.n > MAX_BYTES)
		return err_set(err, ERR_CONFIG, "%s: it is larger than 1 MiB", name);
	if (!yaml_parser_initialize(&r.parser))
		mem_die();
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text.p, text.n);
	failed = read_document(&r, root);
	yaml_event_delete(&r.event);
	yaml_parser_delete(&r.parser);
	return failed ? err_add(err, "%s:%d", name, r.line) : 0;
}
