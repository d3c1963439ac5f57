#include "base/log.h"

#include "base/json.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static enum log_format log_format = LOG_LOGFMT;
static enum log_level log_least = LOG_INFO;

void log_setup(enum log_format format, enum log_level least)
{
	log_format = format;
	log_least = least;
}

static const char *const level_names[] = { "debug", "info", "warn", "error" };

void log_setup_names(const char *format, const char *least)
{
	enum log_level level = LOG_DEBUG;

	while (level < LOG_ERROR && strcmp(level_names[level], least) != 0)
		level++;
	log_setup(strcmp(format, "json") == 0 ? LOG_JSON : LOG_LOGFMT, level);
}

static void put_time(struct strbuf *b)
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strbuf_printf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900, tm.tm_mon + 1,
		      tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	struct strbuf line = { 0 };
	char text[2000];
	va_list ap;

	if (level < log_least)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	strbuf_str(&line, log_format == LOG_JSON ? STR("{\"time\":\"") : STR("time="));
	put_time(&line);
	strbuf_printf(&line,
		      log_format == LOG_JSON ? "\",\"level\":\"%s\",\"msg\":" : " level=%s msg=",
		      level_names[level]);
	json_string_checked(&line, str_c(text));
	strbuf_str(&line, log_format == LOG_JSON ? STR("}\n") : STR("\n"));
	if (write(STDERR_FILENO, line.p, line.n) < 0) {
		/* nobody is there to be told */
	}
	strbuf_release(&line);
}
