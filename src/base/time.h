/*
 * Dates and times, without any clock or time zone database: the proleptic Gregorian calendar as
 * PostgreSQL uses it, its text forms (DateStyle ISO, IntervalStyle postgres; see "Date/Time
 * Output" in its manual) and ISO 8601. Years are astronomical: 1 BC is 0, 44 BC is -43. Times are
 * microseconds since 1970-01-01, days are days since then. All exact, no doubles.
 */
#ifndef PGHERALD_TIME_H
#define PGHERALD_TIME_H

#include "base/strbuf.h"

#define TIME_SECOND INT64_C(1000000)
#define TIME_DAY (86400 * TIME_SECOND)

struct time_date {
	int64_t year;
	int month; /* 1 to 12 */
	int day;   /* 1 to 31 */
};

/* Days since 1970-01-01. The date must exist; |year| below 10^9. */
int64_t time_days(struct time_date d);

/* The inverse. */
struct time_date time_civil(int64_t days);

/* 1 for "infinity", -1 for "-infinity", 0 for anything else. */
int time_infinite(struct str s);

/* The parsers read the whole of s, which none of them takes when it is infinite. False: not of
 * this form, not a date of the calendar, or out of the result's range. */

/* "2020-01-02", "0044-03-15 BC". */
bool time_parse_date(struct str s, int64_t *days);

/* "2020-01-02 03:04:05.678", with or without a zone ("+00", "-08:00:30") and " BC". Without a
 * zone the time is taken as UTC. From year 294247 on microseconds since 1970 do not fit. */
bool time_parse_timestamp(struct str s, int64_t *us);

/* "10:11:12.5" up to "24:00:00", with or without a zone. us: since midnight, of that zone; east:
 * seconds east of Greenwich, 0 without a zone. */
bool time_parse_clock(struct str s, int64_t *us, int32_t *east);

struct time_interval {
	int64_t months; /* years included */
	int64_t days;
	int64_t us;
};

/* "1 year 2 mons -3 days +04:05:06.789". */
bool time_parse_interval(struct str s, struct time_interval *iv);

/* The writers. digits: so many digits of a second's fraction (0 to 6, cut off, not rounded), or
 * TIME_TRIM for as many as are needed. */
#define TIME_TRIM (-1)

/* "2020-01-02", "-0043-03-15", "+12345-01-02". */
void time_print_date(struct strbuf *b, int64_t days);

/* "10:11:12.5"; us from 0 to TIME_DAY. */
void time_print_clock(struct strbuf *b, int64_t us, int digits);

/* Date, separator, clock; the caller adds the zone. */
void time_print(struct strbuf *b, int64_t us, char separator, int digits);

#endif
