/* null: takes everything and keeps nothing; for measuring. */
#include "sink/sink.h"

static int null_open(struct sink *s, struct err *err)
{
	return 0;
}

static int null_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	return 0;
}

static void null_close(struct sink *s)
{
}

const struct sink_driver sink_null = {
	.name = "null",
	.schemes = (const char *const[]){ "null", NULL },
	.help = "null:  takes everything and keeps nothing",
	.open = null_open,
	.send = null_send,
	.close = null_close,
};
