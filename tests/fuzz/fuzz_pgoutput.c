/* A session of pgoutput messages, each behind its length (u16): decoded and encoded natively. */
#include "base/cursor.h"
#include "decode/decoder.h"
#include "encode/encode.h"

#include <stdlib.h>

static int on_relation(void *user, struct relation *rel, struct arena *arena, struct err *err)
{
	rel->wanted = ACTIONS_ALL;
	return 0;
}

static int on_event(void *user, const struct event *e, struct err *err)
{
	static const struct encode_options options;
	struct strbuf *out = user;

	out->n = 0;
	for (size_t i = 0; encode_formats[i]; i++)
		encode_formats[i]->event(&options, e, out);
	return 0;
}

static int on_commit(void *user, uint64_t end_lsn, struct err *err)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct decoder_ops ops = { on_relation, on_event, on_commit };
	static const struct source source = { .db = STR("fuzz"), .server_version = 150000 };
	struct cursor c = cursor_over((struct str){ (const char *)data, size });
	struct strbuf out = { 0 };
	struct decoder d;
	struct err err;

	decoder_init(&d, &source, &ops, &out);
	d.binary = true;
	d.check_utf8 = true;
	while (cursor_left(&c)) {
		struct str m = cursor_bytes(&c, cursor_u16(&c));
		char *copy = malloc(m.n ? m.n : 1);
		int failed;

		if (m.n)
			memcpy(copy, m.p, m.n);
		failed = decoder_message(&d, 1, 2, (struct str){ copy, m.n }, &err);
		free(copy);
		if (failed)
			break;
	}
	decoder_release(&d);
	strbuf_release(&out);
	return 0;
}
