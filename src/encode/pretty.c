/*
 * pretty: one line an event for people at a terminal.
 *
 *	12:30:01.123 update  public.users  id=1  name: Tony Iommi → Geezer Butler
 *	12:30:01.123 event   order/42  3  Placed  {"total": 5}
 */
#include "base/time.h"
#include "base/utf8.h"
#include "encode/encode.h"
#include "event/domain.h"

/* Longer values are cut to so many characters. */
#define SHOWN_MOST 60

#define RESET "\033[0m"
#define DIM "\033[2m"

static const struct {
	struct str word; /* all of one width */
	struct str colour;
} actions[ACTION_COUNT] = {
	[ACTION_INSERT] = { STR("insert  "), STR("\033[32m") },
	[ACTION_UPDATE] = { STR("update  "), STR("\033[33m") },
	[ACTION_DELETE] = { STR("delete  "), STR("\033[31m") },
	[ACTION_TRUNCATE] = { STR("truncate"), STR("\033[35m") },
	[ACTION_MESSAGE] = { STR("message "), STR("\033[36m") },
	[ACTION_EVENT] = { STR("event   "), STR("\033[34m") },
};

static void put_colour(const struct encode_options *o, struct str colour, struct strbuf *out)
{
	if (o->colour)
		strbuf_str(out, colour);
}

/* Text as it may be printed: nothing that could move the cursor, not too long. */
static void put_shown(struct str s, struct strbuf *out)
{
	const char *p = s.p, *end = s.p + s.n;

	for (int shown = 0; p < end; shown++) {
		size_t n = utf8_len(p, end);
		bool control = n == 1 && ((unsigned char)*p < 0x20 || *p == 0x7f);
		bool c1 = n == 2 && (unsigned char)p[0] == 0xc2 && (unsigned char)p[1] < 0xa0;

		if (shown == SHOWN_MOST) {
			strbuf_lit(out, "…");
			return;
		}
		if (control || c1 || n == 0)
			strbuf_lit(out, "·");
		else
			strbuf_add(out, p, n);
		p += n ? n : 1;
	}
}

static void put_value(const struct value *v, struct strbuf *out)
{
	if (v->kind == VALUE_NULL)
		strbuf_lit(out, "null");
	else if (v->kind == VALUE_UNCHANGED)
		strbuf_lit(out, "(unchanged)");
	else
		put_shown(value_str(v), out);
}

static void put_name(const struct encode_options *o, const struct column *c, struct str behind,
		     struct strbuf *out)
{
	strbuf_lit(out, "  ");
	put_colour(o, STR(DIM), out);
	put_shown(c->field.name, out);
	strbuf_str(out, behind);
	put_colour(o, STR(RESET), out);
}

static void put_key(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	for (uint32_t i = 0; i < e->rel->ncols; i++) {
		const struct column *c = &e->rel->cols[i];
		const struct value *v = c->primary ? event_key_value(e, i) : NULL;

		if (!v)
			continue;
		put_name(o, c, STR("="), out);
		put_value(v, out);
	}
}

/* What changed where the old row is known; otherwise the new row. */
static void put_columns(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	const struct value *row = e->new ? e->new : e->old;
	bool compare = e->new && e->old_full;

	for (uint32_t i = 0; row && i < e->rel->ncols; i++) {
		const struct column *c = &e->rel->cols[i];

		if (compare ? !event_column_changed(e, i) : c->primary || (!e->new && !e->old_full))
			continue;
		put_name(o, c, compare ? STR(": ") : STR("="), out);
		if (compare) {
			put_value(&e->old[i], out);
			strbuf_lit(out, " → ");
		}
		put_value(&row[i], out);
	}
}

static void put_domain(const struct event *e, struct strbuf *out)
{
	put_shown(domain_text(e, DOMAIN_CATEGORY), out);
	strbuf_ch(out, '/');
	put_shown(domain_text(e, DOMAIN_STREAM), out);
	strbuf_lit(out, "  ");
	put_shown(domain_text(e, DOMAIN_VERSION), out);
	strbuf_lit(out, "  ");
	put_shown(domain_text(e, DOMAIN_TYPE), out);
	strbuf_lit(out, "  ");
	put_shown(domain_text(e, DOMAIN_DATA), out);
}

static bool pretty_event(const struct encode_options *o, const struct event *e, struct strbuf *out)
{
	int64_t of_day;

	if (e->action == ACTION_BEGIN || e->action == ACTION_COMMIT)
		return false;
	of_day = e->time % TIME_DAY;
	put_colour(o, STR(DIM), out);
	time_print_clock(out, of_day < 0 ? of_day + TIME_DAY : of_day, 3);
	put_colour(o, STR(RESET), out);
	strbuf_ch(out, ' ');
	put_colour(o, actions[e->action].colour, out);
	strbuf_str(out, actions[e->action].word);
	put_colour(o, STR(RESET), out);
	strbuf_ch(out, ' ');
	if (!e->rel) {
		put_shown(e->prefix, out);
		strbuf_lit(out, "  ");
		put_shown(e->content, out);
		return true;
	}
	if (e->action == ACTION_EVENT) {
		put_domain(e, out);
		return true;
	}
	put_shown(e->rel->schema, out);
	strbuf_ch(out, '.');
	put_shown(e->rel->name, out);
	if (e->action == ACTION_TRUNCATE)
		return true;
	put_key(o, e, out);
	put_columns(o, e, out);
	return true;
}

const struct format format_pretty = {
	.name = "pretty",
	.help = "one readable line an event",
	.event = pretty_event,
};
