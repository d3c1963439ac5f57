#include "flow/template.h"

#include "event/domain.h"

enum piece_kind { TEXT, DB, NAME, SCHEMA, TABLE, ACTION, PREFIX, DOMAIN, NEW, KEY };

struct template_piece {
	enum piece_kind kind;
	struct str text;           /* TEXT; the column of NEW and KEY */
	enum domain_column column; /* DOMAIN */
};

static const struct {
	struct str word;
	enum piece_kind kind;
	enum domain_column column;
} words[] = {
	{ STR("db"), DB },
	{ STR("name"), NAME },
	{ STR("schema"), SCHEMA },
	{ STR("table"), TABLE },
	{ STR("action"), ACTION },
	{ STR("prefix"), PREFIX },
	{ STR("category"), DOMAIN, DOMAIN_CATEGORY },
	{ STR("stream"), DOMAIN, DOMAIN_STREAM },
	{ STR("type"), DOMAIN, DOMAIN_TYPE },
	{ STR("topic"), DOMAIN, DOMAIN_TOPIC },
};

#define WORDS (sizeof(words) / sizeof(words[0]))

static int parse_variable(struct template_piece *p, struct str inside, struct err *err)
{
	for (size_t i = 0; i < WORDS; i++) {
		if (!str_eq(inside, words[i].word))
			continue;
		p->kind = words[i].kind;
		p->column = words[i].column;
		return 0;
	}
	if (inside.n > 4 && (str_starts(inside, STR("new.")) || str_starts(inside, STR("key.")))) {
		p->kind = inside.p[0] == 'n' ? NEW : KEY;
		p->text = str_from(inside, 4);
		return 0;
	}
	return err_set(err, ERR_CONFIG,
		       "there is no {%.*s}; there are {db}, {name}, {schema}, {table}, {action}, "
		       "{prefix}, {category}, {stream}, {type}, {topic}, {new.COLUMN} and "
		       "{key.COLUMN}",
		       STR_ARG(inside));
}

int template_parse(struct template *t, struct arena *arena, const char *text, struct err *err)
{
	struct str rest = str_c(arena_copy(arena, text, strlen(text)));
	size_t most = 1;

	for (size_t i = 0; i < rest.n; i++)
		most += 2 * (rest.p[i] == '{');
	*t = (struct template){ arena_alloc(arena, most * sizeof(*t->pieces)), 0 };
	while (rest.n) {
		struct template_piece *p = &t->pieces[t->n++];
		const char *end;

		if (rest.p[0] != '{') {
			p->text = (struct str){ rest.p, strcspn(rest.p, "{") };
			rest = str_from(rest, p->text.n);
			continue;
		}
		end = memchr(rest.p, '}', rest.n);
		if (!end)
			return err_set(err, ERR_CONFIG, "\"%.*s\" is not closed by a }",
				       STR_ARG(rest));
		if (parse_variable(p, (struct str){ rest.p + 1, (size_t)(end - rest.p - 1) }, err))
			return -1;
		rest = str_from(rest, (size_t)(end + 1 - rest.p));
	}
	return 0;
}

static const struct column *find_column(const struct relation *rel, struct str name)
{
	for (uint32_t i = 0; i < rel->ncols; i++)
		if (str_eq(rel->cols[i].field.name, name))
			return &rel->cols[i];
	return NULL;
}

bool template_has_columns(const struct template *t)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->pieces[i].kind == NEW || t->pieces[i].kind == KEY)
			return true;
	return false;
}

int template_check(const struct template *t, const struct relation *rel, struct err *err)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct template_piece *p = &t->pieces[i];
		const struct column *c;

		if (p->kind != NEW && p->kind != KEY)
			continue;
		c = find_column(rel, p->text);
		if (!c || (p->kind == KEY && !c->primary))
			return err_set(err, ERR_CONFIG,
				       "the address names {%s.%.*s}, but %.*s.%.*s has no such "
				       "column%s; give that table an output of its own",
				       p->kind == NEW ? "new" : "key", STR_ARG(p->text),
				       STR_ARG(rel->schema), STR_ARG(rel->name),
				       c ? " in its key" : "");
	}
	return 0;
}

static struct str row_value(const struct template_piece *p, const struct event *e)
{
	const struct value *v = NULL;
	uint32_t i;

	if (!e->rel || (!e->new && !e->old))
		return STR("");
	for (i = 0; i < e->rel->ncols && !str_eq(e->rel->cols[i].field.name, p->text); i++)
		;
	if (i == e->rel->ncols)
		return STR("");
	if (p->kind == KEY)
		v = event_key_value(e, i);
	else if (e->new)
		v = &e->new[i];
	else if (e->old_full || e->rel->cols[i].key)
		v = &e->old[i];
	return v && v->kind == VALUE_TEXT ? value_str(v) : STR("");
}

static struct str piece_value(const struct template_piece *p, const struct event *e)
{
	switch (p->kind) {
	case DB:
		return e->source->db;
	case NAME:
		return e->source->name;
	case SCHEMA:
		return e->rel ? e->rel->schema : STR("message");
	case TABLE:
		return e->rel ? e->rel->name : e->prefix;
	case ACTION:
		return action_names[e->action];
	case PREFIX:
		return e->rel ? STR("") : e->prefix;
	case DOMAIN:
		return e->action == ACTION_EVENT ? domain_text(e, p->column) : STR("");
	case NEW:
	case KEY:
		return row_value(p, e);
	case TEXT:
		break;
	}
	return p->text;
}

static void put_escaped(struct strbuf *out, struct str s, const struct address_rule *rule)
{
	static const char hex[] = "0123456789ABCDEF";

	if (s.n == 0) {
		strbuf_ch(out, rule->escape);
		strbuf_lit(out, "00");
	}
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];

		if (rule->plain(c)) {
			strbuf_ch(out, s.p[i]);
			continue;
		}
		strbuf_ch(out, rule->escape);
		strbuf_ch(out, hex[c >> 4]);
		strbuf_ch(out, hex[c & 15]);
	}
}

void template_render(const struct template *t, const struct event *e,
		     const struct address_rule *rule, struct strbuf *out)
{
	for (size_t i = 0; i < t->n; i++) {
		struct str value = piece_value(&t->pieces[i], e);

		if (t->pieces[i].kind == TEXT)
			strbuf_str(out, value);
		else
			put_escaped(out, value, rule);
	}
}

void template_pattern(const struct template *t, const struct source *source,
		      const struct address_rule *rule, struct strbuf *out)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct template_piece *p = &t->pieces[i];

		if (p->kind == TEXT)
			strbuf_str(out, p->text);
		else if (p->kind == DB || p->kind == NAME)
			put_escaped(out, p->kind == DB ? source->db : source->name, rule);
		else
			strbuf_ch(out, '*');
	}
}
