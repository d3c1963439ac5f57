/*
 * Errors that say what to do.
 *
 * A function that can fail returns 0 or -1 (or a pointer or NULL) and takes a struct err as its
 * last parameter. It fills it only on failure. The kind tells the caller what to do next, the
 * message names the thing that failed and, where there is one, the mend.
 */
#ifndef PGHERALD_ERR_H
#define PGHERALD_ERR_H

enum err_kind {
	ERR_NONE,
	ERR_RETRY,  /* close, back off, open again: networks, servers that restart */
	ERR_REJECT, /* this one message cannot be taken; the connection is well */
	ERR_FAIL,   /* stop: trying again would bring the same */
	ERR_BUSY,   /* the slot is in use by another process */
	ERR_LOST,   /* the slot is gone or can no longer give what was asked of it */
	ERR_CONFIG, /* stop: the user has to change a setting */
	ERR_USAGE,  /* stop: the command line is wrong */
};

struct err {
	enum err_kind kind;
	char msg[1000];
};

#define MUST_CHECK __attribute__((warn_unused_result))

/* Sets kind and message (printf style, cut at the size of msg). Always returns -1. */
int err_set(struct err *err, enum err_kind kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts context before the message: "context: message". Always returns -1. */
int err_add(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The process's exit code for an error of this kind; documented in pgherald(1). */
int err_exit_code(enum err_kind kind);

#endif
