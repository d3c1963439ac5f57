#include "base/glob.h"

/* The length of the character at p: its byte and the continuation bytes behind it. */
static size_t char_len(struct str s, size_t at)
{
	size_t n = 1;

	while (at + n < s.n && ((unsigned char)s.p[at + n] & 0xc0) == 0x80)
		n++;
	return n;
}

/* Only the last star seen is ever tried again: an earlier one could not match more than it did. */
bool glob_match(struct str pattern, struct str text)
{
	size_t p = 0, t = 0, star = SIZE_MAX, resume = 0;

	while (t < text.n) {
		if (p < pattern.n && pattern.p[p] == '*') {
			star = p++;
			resume = t;
		} else if (p < pattern.n && pattern.p[p] == '?') {
			p++;
			t += char_len(text, t);
		} else if (p < pattern.n && pattern.p[p] == text.p[t]) {
			p++;
			t++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			resume += char_len(text, resume);
			t = resume;
		} else {
			return false;
		}
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}

/* Takes a part in double quotes off the front of *rest. */
static int parse_quoted(struct glob *g, struct arena *arena, struct str *rest, struct err *err)
{
	char *copy = arena_alloc(arena, rest->n);
	size_t n = 0, i;

	for (i = 1; i < rest->n; i++) {
		if (rest->p[i] == '"' && (i + 1 == rest->n || rest->p[i + 1] != '"'))
			break;
		i += rest->p[i] == '"';
		copy[n++] = rest->p[i];
	}
	if (i >= rest->n)
		return err_set(err, ERR_CONFIG, "a closing double quote is missing");
	*g = (struct glob){ { copy, n }, true };
	*rest = str_from(*rest, i + 1);
	if (rest->n && rest->p[0] != '.' && rest->p[0] != ':')
		return err_set(err, ERR_CONFIG,
			       "there is text behind a closing double quote; "
			       "a quote inside a quoted name is written twice");
	return 0;
}

static int parse_bare(struct glob *g, struct str *rest, struct err *err)
{
	struct str part = { rest->p, 0 };
	bool literal = true;

	while (part.n < rest->n && rest->p[part.n] != '.' && rest->p[part.n] != ':') {
		char c = rest->p[part.n++];

		if (c == '"')
			return err_set(err, ERR_CONFIG,
				       "a double quote stands inside a name; "
				       "put the whole name in double quotes");
		literal = literal && c != '*' && c != '?';
	}
	*g = (struct glob){ part, literal };
	*rest = str_from(*rest, part.n);
	return 0;
}

static int parse_part(struct glob *g, struct arena *arena, struct str *rest, struct err *err)
{
	bool quoted = rest->n && rest->p[0] == '"';

	if (quoted ? parse_quoted(g, arena, rest, err) : parse_bare(g, rest, err))
		return -1;
	if (g->text.n == 0)
		return err_set(err, ERR_CONFIG, "a name is empty");
	return 0;
}

int glob_name_parse(struct glob_name *g, struct arena *arena, struct str text, struct err *err)
{
	*g = (struct glob_name){ .qualifier = { STR("*"), false } };
	if (text.n && text.p[0] == '!') {
		g->negated = true;
		text = str_from(text, 1);
	}
	if (parse_part(&g->name, arena, &text, err))
		return -1;
	if (text.n && text.p[0] == '.') {
		g->qualifier = g->name;
		text = str_from(text, 1);
		if (parse_part(&g->name, arena, &text, err))
			return -1;
	}
	if (text.n && text.p[0] == ':') {
		g->suffix = str_from(text, 1);
		return 0;
	}
	if (text.n)
		return err_set(err, ERR_CONFIG,
			       "it has more than one dot; "
			       "put a name with dots in double quotes");
	return 0;
}

static bool match_part(const struct glob *g, struct str s)
{
	return g->literal ? str_eq(g->text, s) : glob_match(g->text, s);
}

bool glob_name_match(const struct glob_name *g, struct str qualifier, struct str name)
{
	return match_part(&g->name, name) && match_part(&g->qualifier, qualifier);
}
