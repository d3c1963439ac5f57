#include "core/output.h"

#include "base/json.h"

#include <stdlib.h>
#include <unistd.h>

/* A batch is handed over when it has this much. */
#define BATCH_BYTES (256u << 10)
#define BATCH_MESSAGES 2048

static bool is(const char *value, const char *word)
{
	return value && strcmp(value, word) == 0;
}

/* {"a":"b"} from a=b. */
static int make_tags(struct output *o, const struct strings *tags, struct err *err)
{
	for (size_t i = 0; i < tags->n; i++) {
		const char *eq = strchr(tags->v[i], '=');

		if (!eq || eq == tags->v[i])
			return err_set(err, ERR_CONFIG, "tags: \"%s\" is not NAME=VALUE", tags->v[i]);
		strbuf_ch(&o->tags, i ? ',' : '{');
		json_string(&o->tags, (struct str){ tags->v[i], (size_t)(eq - tags->v[i]) });
		strbuf_ch(&o->tags, ':');
		json_string(&o->tags, str_c(eq + 1));
	}
	if (tags->n)
		strbuf_ch(&o->tags, '}');
	o->encode.tags = strbuf_view(&o->tags);
	return 0;
}

int output_init(struct output *o, const struct settings *s, const struct output_settings *os,
		struct arena *arena, struct err *err)
{
	bool terminal = strncmp(os->to, "stdout:", 7) == 0 && isatty(STDOUT_FILENO);
	const char *format = os->format ? os->format : terminal ? "pretty" : "native";

	o->format = encode_format(format);
	if (!o->format)
		return err_set(err, ERR_CONFIG, "format \"%s\" is not known", format);
	o->encode = (struct encode_options){
		.numeric = is(os->numeric, "string") ? NUMBER_STRING : NUMBER_JSON,
		.int8 = is(os->int8, "string") ? NUMBER_STRING : NUMBER_JSON,
		.bytea = is(os->bytea, "base64") ? BYTEA_BASE64 : BYTEA_HEX,
		.timestamps = is(os->timestamps, "epoch_us") ? TIME_EPOCH_US : TIME_ISO,
		.colour = terminal && !getenv("NO_COLOR"),
		.variant = os->variant ? os->variant : "",
		.recorded_at = os->recorded_at,
		.transactions = os->transactions,
		.decimal_mode = os->decimal_mode,
		.time_precision = os->time_precision,
		.interval_mode = os->interval_mode,
		.binary_mode = os->binary_mode,
		.hstore_mode = os->hstore_mode,
	};
	if (make_tags(o, &os->tags, err))
		return -1;
	return filter_init(&o->filter, arena, os->tables.n ? &os->tables : &s->tables,
			   os->actions.n ? &os->actions : &s->actions, err);
}

void output_release(struct output *o)
{
	strbuf_release(&o->tags);
	sink_batch_free(o->batch);
	o->batch = NULL;
}

static bool is_full(const struct batch *b)
{
	return b->n >= BATCH_MESSAGES || b->body.n >= BATCH_BYTES;
}

void output_flush(struct output *o)
{
	if (!o->batch || o->batch->n == 0)
		return;
	sink_send(o->sink, o->batch);
	o->batch = NULL;
}

bool output_has_room(struct output *o)
{
	if (o->batch && is_full(o->batch))
		output_flush(o);
	if (!o->batch)
		o->batch = sink_batch(o->sink);
	return o->batch != NULL;
}

static struct message *next_message(struct batch *b)
{
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : 64;
		b->messages = mem_realloc(b->messages, b->cap * sizeof(*b->messages));
	}
	return &b->messages[b->n];
}

static void put(struct output *o, const struct event *e)
{
	struct batch *b = o->batch;
	size_t at = b->body.n;
	struct message *m;

	if (!o->format->event(&o->encode, e, &b->body))
		return;
	m = next_message(b);
	*m = (struct message){ .at = at, .n = b->body.n - at, .position = e->position };
	strbuf_ch(&b->body, '\n');
	o->given++;
	if (b->n++ == 0)
		b->first = o->given;
}

void output_put(struct output *o, const struct event *e)
{
	if (e->action == ACTION_BEGIN) {
		o->begin = *e;
		o->begin_waits = true;
		return;
	}
	if (e->action == ACTION_COMMIT) {
		if (!o->begin_waits && o->format->shows_transactions && o->begin_shown)
			put(o, e);
		o->begin_waits = o->begin_shown = false;
		return;
	}
	if (o->begin_waits && o->format->shows_transactions) {
		put(o, &o->begin);
		o->begin_shown = true;
	}
	o->begin_waits = false;
	put(o, e);
}
