#include "sink/batch.h"

#include "base/mem.h"

#include <stdlib.h>

/* A batch that grew over this for one huge message gives its memory back. */
#define KEEP_BYTES (1u << 20)

struct message *batch_next(struct batch *b)
{
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : 64;
		b->messages = mem_realloc(b->messages, b->cap * sizeof(*b->messages));
	}
	return &b->messages[b->n];
}

void batch_clear(struct batch *b)
{
	b->n = 0;
	b->body.n = b->meta.n = 0;
	strbuf_shrink(&b->body, KEEP_BYTES);
	strbuf_shrink(&b->meta, KEEP_BYTES);
}

void batch_free(struct batch *b)
{
	if (!b)
		return;
	strbuf_release(&b->body);
	strbuf_release(&b->meta);
	free(b->messages);
	free(b);
}
