#include "event/event.h"

#include <endian.h>

const struct str action_names[ACTION_COUNT] = {
	[ACTION_INSERT] = STR("insert"),   [ACTION_UPDATE] = STR("update"),
	[ACTION_DELETE] = STR("delete"),   [ACTION_TRUNCATE] = STR("truncate"),
	[ACTION_MESSAGE] = STR("message"), [ACTION_EVENT] = STR("event"),
	[ACTION_BEGIN] = STR("begin"),     [ACTION_COMMIT] = STR("commit"),
};

/* Eight digits at once: each half of a byte becomes a byte of its own, and that a digit. */
static void hex_print(uint32_t v, char out[8])
{
	const uint64_t each = 0x0101010101010101;
	uint64_t x = v, letters;

	x = (x << 16 | x) & 0x0000ffff0000ffff;
	x = (x << 8 | x) & 0x00ff00ff00ff00ff;
	x = (x << 4 | x) & 0x0f0f0f0f0f0f0f0f;
	letters = (x + each * 6) >> 4 & each; /* 1 where it is above 9 */
	x = htobe64(x + each * '0' + letters * ('A' - '0' - 10));
	memcpy(out, &x, 8);
}

/* Up to 16 hex digits; false when there are none, too many or other bytes. */
static bool hex_parse(struct str s, size_t max, uint64_t *v)
{
	*v = 0;
	if (s.n == 0 || s.n > max)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (c >= '0' && c <= '9')
			*v = *v << 4 | (uint64_t)(c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			*v = *v << 4 | (uint64_t)((c | 32) - 'a' + 10);
		else
			return false;
	}
	return true;
}

void position_print(struct position p, char out[POSITION_LEN])
{
	hex_print((uint32_t)(p.lsn >> 32), out);
	hex_print((uint32_t)p.lsn, out + 8);
	out[16] = '-';
	hex_print(p.ordinal, out + 17);
}

bool position_parse(struct str s, struct position *p)
{
	uint64_t ordinal;

	if (s.n != POSITION_LEN || s.p[16] != '-' ||
	    !hex_parse((struct str){ s.p, 16 }, 16, &p->lsn) ||
	    !hex_parse(str_from(s, 17), 8, &ordinal))
		return false;
	p->ordinal = (uint32_t)ordinal;
	return true;
}

bool lsn_parse(struct str s, uint64_t *lsn)
{
	const char *slash = s.n ? memchr(s.p, '/', s.n) : NULL;
	uint64_t high, low;
	size_t i;

	if (!slash)
		return false;
	i = (size_t)(slash - s.p);
	if (!hex_parse((struct str){ s.p, i }, 8, &high) || !hex_parse(str_from(s, i + 1), 8, &low))
		return false;
	*lsn = high << 32 | low;
	return true;
}

const struct value *event_key_value(const struct event *e, uint32_t i)
{
	if (e->new && e->new[i].kind != VALUE_UNCHANGED)
		return &e->new[i];
	return e->old ? &e->old[i] : NULL;
}

bool event_column_changed(const struct event *e, uint32_t i)
{
	const struct value *a = &e->old[i], *b = &e->new[i];

	if (a->kind != b->kind)
		return b->kind != VALUE_UNCHANGED;
	return a->kind == VALUE_TEXT && !str_eq(value_str(a), value_str(b));
}
