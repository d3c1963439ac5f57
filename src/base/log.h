/*
 * Log lines on standard error: logfmt or JSON, one line each, written with one system call. Only
 * core/ and cli/ log above debug level; rooms below return errors.
 */
#ifndef PGHERALD_LOG_H
#define PGHERALD_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* Process-wide; set once before threads start, and at reload. */
void log_setup(enum log_format format, enum log_level least);

/* The same by the names that settings have: "logfmt" or "json"; "debug", "info" ... */
void log_setup_names(const char *format, const char *least);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)

#endif
