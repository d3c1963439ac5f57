/* stdout: one message a line on standard output. Taken when written. */
#include "sink/sink.h"

#include <errno.h>
#include <unistd.h>

static int stdout_open(struct sink *s, struct err *err)
{
	return 0;
}

static int stdout_send(struct sink *s, const struct batch *b, uint32_t from, struct err *err)
{
	size_t at = b->messages[from].at;

	while (at < b->body.n) {
		ssize_t n = write(STDOUT_FILENO, b->body.p + at, b->body.n - at);

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
	.schemes = (const char *const[]){ "stdout", NULL },
	.help = "stdout:  one line an event on standard output",
	.open = stdout_open,
	.send = stdout_send,
	.close = stdout_close,
};
