#include "base/time.h"

/* What is left to read. */
struct scan {
	const char *p;
	const char *end;
};

/* Years of this calendar begin in March here, so that the leap day ends the year and a month's
 * first day is a linear function of its number; 400 years are an era of 146097 days. */
int64_t time_days(struct time_date d)
{
	int64_t year = d.month > 2 ? d.year : d.year - 1;
	int64_t era = (year >= 0 ? year : year - 399) / 400;
	int64_t of_era = year - era * 400;
	int64_t of_year = (153 * ((d.month + 9) % 12) + 2) / 5 + d.day - 1;

	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

struct time_date time_civil(int64_t days)
{
	int64_t n = days + 719468;
	int64_t era = (n >= 0 ? n : n - 146096) / 146097;
	int64_t of_era = n - era * 146097;
	int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	int64_t month = (5 * of_year + 2) / 153;
	struct time_date d = { .day = (int)(of_year - (153 * month + 2) / 5 + 1) };

	d.month = (int)(month < 10 ? month + 3 : month - 9);
	d.year = year + era * 400 + (d.month <= 2);
	return d;
}

int time_infinite(struct str s)
{
	if (str_eq(s, STR("infinity")))
		return 1;
	return str_eq(s, STR("-infinity")) ? -1 : 0;
}

static bool scan_char(struct scan *s, char c)
{
	if (s->p == s->end || *s->p != c)
		return false;
	s->p++;
	return true;
}

/* Between min and max digits; max below 18, so that nothing overflows. */
static bool scan_digits(struct scan *s, int min, int max, int64_t *v)
{
	int n = 0;

	for (*v = 0; n < max && s->p < s->end && *s->p >= '0' && *s->p <= '9'; n++)
		*v = *v * 10 + (*s->p++ - '0');
	return n >= min;
}

static bool scan_pair(struct scan *s, int64_t most, int64_t *v)
{
	return scan_digits(s, 2, 2, v) && *v <= most;
}

/* Takes " BC" from the end. */
static bool scan_bc(struct scan *s)
{
	if (s->end - s->p < 3 || memcmp(s->end - 3, " BC", 3) != 0)
		return false;
	s->end -= 3;
	return true;
}

static bool scan_date(struct scan *s, bool bc, int64_t *days)
{
	struct time_date d, same;
	int64_t year, month, day;

	if (!scan_digits(s, 4, 9, &year) || !scan_char(s, '-') || !scan_pair(s, 12, &month) ||
	    !scan_char(s, '-') || !scan_pair(s, 31, &day) || month == 0 || day == 0)
		return false;
	d = (struct time_date){ bc ? 1 - year : year, (int)month, (int)day };
	*days = time_days(d);
	same = time_civil(*days);
	return same.month == d.month && same.day == d.day && year > 0;
}

/* ".678" as microseconds; nothing is 0. */
static bool scan_fraction(struct scan *s, int64_t *us)
{
	const char *start;

	*us = 0;
	if (!scan_char(s, '.'))
		return true;
	start = s->p;
	if (!scan_digits(s, 1, 6, us))
		return false;
	for (long n = s->p - start; n < 6; n++)
		*us *= 10;
	return true;
}

/* Hours have at least two digits, and more in an interval. */
static bool scan_clock(struct scan *s, int max_digits, int64_t *us)
{
	int64_t hour, minute, second, fraction;

	if (!scan_digits(s, 2, max_digits, &hour) || !scan_char(s, ':') ||
	    !scan_pair(s, 59, &minute) || !scan_char(s, ':') || !scan_pair(s, 60, &second) ||
	    !scan_fraction(s, &fraction))
		return false;
	return !__builtin_mul_overflow((hour * 60 + minute) * 60 + second, TIME_SECOND, us) &&
	       !__builtin_add_overflow(*us, fraction, us);
}

/* "+05:30", "-08:00:30"; nothing is 0. */
static bool scan_zone(struct scan *s, int64_t *east)
{
	int64_t hour, minute = 0, second = 0;
	bool west;

	*east = 0;
	if (s->p == s->end)
		return true;
	west = scan_char(s, '-');
	if ((!west && !scan_char(s, '+')) || !scan_pair(s, 99, &hour) ||
	    (scan_char(s, ':') && !scan_pair(s, 59, &minute)) ||
	    (scan_char(s, ':') && !scan_pair(s, 59, &second)))
		return false;
	*east = (hour * 60 + minute) * 60 + second;
	if (west)
		*east = -*east;
	return true;
}

bool time_parse_date(struct str s, int64_t *days)
{
	struct scan in = { s.p, s.p + s.n };
	bool bc = scan_bc(&in);

	return scan_date(&in, bc, days) && in.p == in.end;
}

bool time_parse_timestamp(struct str s, int64_t *us)
{
	struct scan in = { s.p, s.p + s.n };
	bool bc = scan_bc(&in);
	int64_t days, clock, east;

	if (!scan_date(&in, bc, &days) || !scan_char(&in, ' ') || !scan_clock(&in, 2, &clock) ||
	    !scan_zone(&in, &east) || in.p != in.end)
		return false;
	return !__builtin_mul_overflow(days, TIME_DAY, us) &&
	       !__builtin_add_overflow(*us, clock - east * TIME_SECOND, us);
}

bool time_parse_clock(struct str s, int64_t *us, int32_t *east)
{
	struct scan in = { s.p, s.p + s.n };
	int64_t zone;

	if (!scan_clock(&in, 2, us) || !scan_zone(&in, &zone) || in.p != in.end)
		return false;
	*east = (int32_t)zone;
	return *us <= TIME_DAY;
}

/* One "N unit" of an interval, or its time. */
static bool scan_interval_part(struct scan *s, struct time_interval *iv)
{
	static const struct {
		struct str name;
		int months;
		int days;
	} units[] = {
		{ STR("years"), 12, 0 }, { STR("year"), 12, 0 }, { STR("mons"), 1, 0 },
		{ STR("mon"), 1, 0 },    { STR("days"), 0, 1 },  { STR("day"), 0, 1 },
	};
	int64_t sign = scan_char(s, '-') ? -1 : 1, n;
	struct scan clock = *s;

	scan_char(&clock, '+');
	*s = clock;
	if (scan_clock(&clock, 10, &n)) {
		*s = clock;
		return !__builtin_add_overflow(iv->us, sign * n, &iv->us);
	}
	if (!scan_digits(s, 1, 10, &n) || !scan_char(s, ' '))
		return false;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		struct str rest = { s->p, (size_t)(s->end - s->p) };

		if (!str_starts(rest, units[i].name))
			continue;
		s->p += units[i].name.n;
		iv->months += sign * n * units[i].months;
		iv->days += sign * n * units[i].days;
		return true;
	}
	return false;
}

bool time_parse_interval(struct str s, struct time_interval *iv)
{
	struct scan in = { s.p, s.p + s.n };
	int parts = 0; /* years, months, days, time */

	*iv = (struct time_interval){ 0 };
	do {
		if (!scan_interval_part(&in, iv))
			return false;
	} while (++parts < 4 && scan_char(&in, ' '));
	return in.p == in.end;
}

/* v in decimal at p, in so many digits; returns what is behind. */
static inline char *put_digits(char *p, uint32_t v, int n)
{
	for (int i = n; i-- > 0; v /= 10)
		p[i] = (char)('0' + v % 10);
	return p + n;
}

/* The most that the next two write. */
#define DATE_LEN 17
#define CLOCK_LEN 15

static char *put_date(char *p, int64_t days)
{
	struct time_date d = time_civil(days);
	uint32_t year = (uint32_t)(d.year < 0 ? -d.year : d.year);
	int digits = 4;

	if (d.year < 0)
		*p++ = '-';
	else if (d.year > 9999)
		*p++ = '+';
	for (uint32_t high = year / 10000; high; high /= 10)
		digits++;
	p = put_digits(p, year, digits);
	*p++ = '-';
	p = put_digits(p, (uint32_t)d.month, 2);
	*p++ = '-';
	return put_digits(p, (uint32_t)d.day, 2);
}

static char *put_clock(char *p, int64_t us, int digits)
{
	static const uint32_t powers[] = { 1, 10, 100, 1000, 10000, 100000, 1000000 };
	uint32_t seconds = (uint32_t)(us / TIME_SECOND), fraction = (uint32_t)(us % TIME_SECOND);

	p = put_digits(p, seconds / 3600, 2);
	*p++ = ':';
	p = put_digits(p, seconds / 60 % 60, 2);
	*p++ = ':';
	p = put_digits(p, seconds % 60, 2);
	if (digits == TIME_TRIM)
		for (digits = 6; digits > 0 && fraction % powers[7 - digits] == 0; digits--)
			;
	if (digits == 0)
		return p;
	*p++ = '.';
	return put_digits(p, fraction / powers[6 - digits], digits);
}

/* What was written up to `end` is content. */
static void wrote(struct strbuf *b, const char *end)
{
	b->n = (size_t)(end - b->p);
}

void time_print_date(struct strbuf *b, int64_t days)
{
	wrote(b, put_date(strbuf_room(b, DATE_LEN), days));
}

void time_print_clock(struct strbuf *b, int64_t us, int digits)
{
	wrote(b, put_clock(strbuf_room(b, CLOCK_LEN), us, digits));
}

/* The text of one time is remembered: all events of a transaction have the same. */
void time_print(struct strbuf *b, int64_t us, char separator, int digits)
{
	static _Thread_local struct {
		int64_t us;
		int digits;
		char separator;
		size_t n;
		char text[DATE_LEN + 1 + CLOCK_LEN];
	} last;

	if (last.n == 0 || last.us != us || last.separator != separator || last.digits != digits) {
		bool before = us % TIME_DAY < 0;
		char *p = put_date(last.text, us / TIME_DAY - before);

		*p++ = separator;
		p = put_clock(p, us % TIME_DAY + (before ? TIME_DAY : 0), digits);
		last.us = us;
		last.separator = separator;
		last.digits = digits;
		last.n = (size_t)(p - last.text);
	}
	strbuf_add(b, last.text, last.n);
}
