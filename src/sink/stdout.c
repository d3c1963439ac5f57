/* stdout: one message a line on standard output. Taken when written. */
#include "sink/sink.h"

#include <errno.h>
#include <unistd.h>

static int stdout_open(struct sink *s, struct err *err)
{
	return 0;
}

static int stdout_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		       struct err *err)
{
	size_t at = b->messages[from].at, end = b->messages[to - 1].at + b->messages[to - 1].n + 1;

	while (at < end) {
		ssize_t n = write(STDOUT_FILENO, b->body.p + at, end - at);

		if (n < 0 && errno != EINTR)
			return err_set(err, ERR_FAIL, "cannot write to standard output: %s",
				       strerror(errno));
		if (n > 0)
			at += (size_t)n;
	}
	return 0;
}

static void stdout_close(struct sink *s)
{
}

const struct sink_driver sink_stdout = {
	.name = "stdout",
	.schemes = (const char *const[]){ "stdout", NULL },
	.help = "stdout:  one event a line on standard output; readable lines in colour when that "
		"is a "
		"terminal (NO_COLOR turns the colour off)",
	.open = stdout_open,
	.send = stdout_send,
	.close = stdout_close,
};
