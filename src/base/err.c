#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
{
	va_list ap;

	err->kind = kind;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	return -1;
}

int err_add(struct err *err, const char *fmt, ...)
{
	char old[sizeof(err->msg)];
	va_list ap;
	size_t n;

	memcpy(old, err->msg, sizeof(old));
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	n = strlen(err->msg);
	snprintf(err->msg + n, sizeof(err->msg) - n, ": %s", old);
	return -1;
}

int err_exit_code(enum err_kind kind)
{
	static const int codes[] = {
		[ERR_NONE] = 0,  [ERR_RETRY] = 1, [ERR_REJECT] = 1,  [ERR_FAIL] = 1,
		[ERR_BUSY] = 69, [ERR_LOST] = 76, [ERR_CONFIG] = 78, [ERR_USAGE] = 64,
	};

	return codes[kind];
}
