#include "conf/outputs.h"

#include "base/strbuf.h"
#include "base/url.h"

#define MAX_OUTPUTS 64

struct output_settings *outputs_add(struct settings *s, struct err *err)
{
	if (s->noutputs == MAX_OUTPUTS) {
		err_set(err, ERR_CONFIG, "there are more than %d outputs", MAX_OUTPUTS);
		return NULL;
	}
	if (!s->outputs)
		s->outputs = arena_alloc(&s->arena, MAX_OUTPUTS * sizeof(*s->outputs));
	s->outputs[s->noutputs] = (struct output_settings){ 0 };
	return &s->outputs[s->noutputs++];
}

bool outputs_given(const struct output_settings *os, size_t i)
{
	return os->given[i / 64] >> i % 64 & 1;
}

void *outputs_field(struct output_settings *os, const struct option *o)
{
	size_t i = (size_t)(o - options);

	os->given[i / 64] |= (uint64_t)1 << i % 64;
	return (char *)os + o->output_at;
}

void outputs_inherit(struct settings *s)
{
	for (size_t k = 0; k < s->noutputs; k++) {
		struct output_settings *os = &s->outputs[k];

		for (size_t i = 0; i < options_count; i++) {
			const struct option *o = &options[i];

			if (option_of_output(o) && !outputs_given(os, i))
				option_copy(o, (char *)os + o->output_at, (char *)s + o->at);
		}
	}
}

/* Takes one parameter of an output's URL if it is an option, otherwise leaves it in `rest`. */
static int take_param(struct settings *s, struct output_settings *os, struct str name,
		      struct str value, struct strbuf *rest, struct err *err)
{
	const struct option *o = options_find(name, 0);
	const char *text;

	if (!o || !option_of_output(o) || o->type == OPTION_OUTPUT) {
		strbuf_ch(rest, '&');
		strbuf_add(rest, name.p, (size_t)(value.p + value.n - name.p));
		return 0;
	}
	text = url_decode(&s->arena, value);
	if (!text)
		return err_set(err, ERR_CONFIG, "%s: a %% is not followed by two hex digits",
			       o->name);
	if (option_set(o, outputs_field(os, o), &s->arena, str_c(text), err))
		return err_add(err, "%s", o->name);
	return 0;
}

int outputs_set_url(struct settings *s, struct output_settings *os, struct str url, struct err *err)
{
	const char *mark = url.n ? memchr(url.p, '?', url.n) : NULL;
	struct str query = { NULL, 0 }, name, value;
	struct strbuf rest = { 0 };
	size_t head;
	int failed = 0;

	if (mark) {
		query = str_from(url, (size_t)(mark + 1 - url.p));
		url.n = (size_t)(mark - url.p);
	}
	if (url.n == 0)
		return err_set(err, ERR_CONFIG, "the URL of an output is empty");
	strbuf_str(&rest, url);
	if (!memchr(url.p, ':', url.n))
		strbuf_ch(&rest, ':');
	head = rest.n;
	while (!failed && url_query_next(&query, &name, &value))
		failed = take_param(s, os, name, value, &rest, err);
	if (rest.n > head)
		rest.p[head] = '?';
	os->to = arena_copy(&s->arena, rest.p, rest.n);
	strbuf_release(&rest);
	return failed;
}
