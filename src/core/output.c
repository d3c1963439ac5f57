#include "core/output.h"

#include "base/compress.h"
#include "base/json.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* A batch is handed over when it has this much. */
#define BATCH_BYTES (64u << 10)
#define BATCH_MESSAGES 512

/* Where refused messages go: the words of the option, in the order of enum sink_refusal. */
static const char *const refusals[] = { "stop", "skip", "dead-letter" };

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

static int make_address(struct output *o, const struct output_settings *os, struct arena *arena,
			struct err *err)
{
	const struct sink_driver *d;
	const char *text = os->address;
	struct url url;

	d = o->driver = driver_find(&url, arena, os->to, err);
	if (!d)
		return -1;
	o->address_rule = (struct address_rule){ d->address_plain, d->address_escape };
	if (!d->address)
		return text ? err_set(err, ERR_CONFIG, "address: %s has no addresses", d->name) : 0;
	if (template_parse(&o->address, arena, text ? text : driver_address(d, &url), err))
		return err_add(err, "address");
	return 0;
}

enum sink_refusal output_refusal(const struct output_settings *os)
{
	enum sink_refusal r = REFUSED_STOP;

	while (r < REFUSED_DEAD_LETTER && !is(os->on_refused, refusals[r]))
		r++;
	return r;
}

static int check_refusal(const struct output_settings *os, struct err *err)
{
	if (is(os->on_refused, "dead-letter") && !os->dead_letter)
		return err_set(err, ERR_CONFIG,
			       "on_refused is dead-letter: say where to with dead_letter, as in "
			       "dead_letter: file:refused.json");
	return 0;
}

static int check_writer(const struct output_settings *os, struct err *err)
{
	for (const char *p = os->writer; p && *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("-_.", *p))
			return err_set(
				err, ERR_CONFIG,
				"writer \"%s\" may have only letters, digits, '-', '_' and '.'",
				os->writer);
	return 0;
}

static int make_headers(struct output *o, const struct output_settings *os, struct err *err)
{
	if (!o->format->headers || !is(os->cloudevents_mode, "binary"))
		return 0;
	o->encode.headers = o->driver->headers;
	if (!o->encode.headers)
		return err_set(err, ERR_CONFIG,
			       "cloudevents_mode is binary, but messages to %s have no headers",
			       o->driver->name);
	if (output_refusal(os) == REFUSED_DEAD_LETTER)
		return err_set(err, ERR_CONFIG,
			       "cloudevents_mode is binary, but dead letters keep no headers: use "
			       "structured, or another on_refused");
	return 0;
}

static int make_compressor(struct output *o, const struct output_settings *os, struct err *err)
{
	o->compressor = compressor_new(os->compress);
	if (o->compressor && !o->driver->compressed)
		return err_set(err, ERR_CONFIG,
			       "compress: a receiver from %s could not tell; leave it out",
			       o->driver->name);
	return 0;
}

static char *mask(struct arena *arena, const char *url)
{
	struct strbuf b = { 0 };
	char *copy;

	url_mask(&b, str_c(url));
	copy = arena_copy(arena, b.p, b.n);
	strbuf_release(&b);
	return copy;
}

int output_init(struct output *o, const struct settings *s, const struct output_settings *os,
		struct arena *arena, struct err *err)
{
	bool terminal = strncmp(os->to, "stdout:", 7) == 0 && isatty(STDOUT_FILENO);
	const char *format = os->format ? os->format : terminal ? "pretty" : "native";

	o->settings = os;
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
		.key_columns = (const char *const *)os->key_columns.v,
		.nkey_columns = os->key_columns.n,
	};
	if (make_tags(o, &os->tags, err))
		return -1;
	if (make_address(o, os, arena, err) || make_compressor(o, os, err) ||
	    make_headers(o, os, err) || check_refusal(os, err) || check_writer(os, err))
		return err_add(err, "output %s", mask(arena, os->to));
	return filter_init(&o->filter, arena, os->tables.n ? &os->tables : &s->tables,
			   os->actions.n ? &os->actions : &s->actions, err);
}

static int check_key_column(const char *name, const struct relation *rel, uint16_t actions,
			    struct err *err)
{
	const uint16_t old = ACTION_BIT(ACTION_UPDATE) | ACTION_BIT(ACTION_DELETE);
	const struct column *c = NULL;

	for (uint32_t i = 0; i < rel->ncols && !c; i++)
		if (str_eq(rel->cols[i].field.name, str_c(name)))
			c = &rel->cols[i];
	if (!c)
		return err_set(err, ERR_CONFIG,
			       "key_columns names %s, but %.*s.%.*s has no such column; give that "
			       "table an output of its own",
			       name, STR_ARG(rel->schema), STR_ARG(rel->name));
	if (!c->key && actions & old)
		return err_set(err, ERR_CONFIG,
			       "key_columns names %s, which the server does not send of old rows: "
			       "ALTER TABLE %.*s.%.*s REPLICA IDENTITY FULL, or leave out updates "
			       "and deletes",
			       name, STR_ARG(rel->schema), STR_ARG(rel->name));
	return 0;
}

int output_check_table(const struct output *o, const struct relation *rel, uint16_t actions,
		       struct err *err)
{
	const struct strings *keys = &o->settings->key_columns;

	for (size_t i = 0; i < keys->n && o->driver->keys && !o->format->any_key; i++)
		if (check_key_column(keys->v[i], rel, actions, err))
			return -1;
	return template_check(&o->address, rel, err);
}

void output_release(struct output *o)
{
	strbuf_release(&o->tags);
	strbuf_release(&o->plain);
	compressor_free(o->compressor);
	batch_free(o->batch);
	o->batch = NULL;
}

static uint64_t hash(uint64_t h, const char *text)
{
	for (const char *p = text; *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3; /* FNV-1a */
	return h * 0x100000001b3;
}

static uint64_t hash_list(uint64_t h, const struct strings *list)
{
	for (size_t i = 0; i < list->n; i++)
		h = hash(h, list->v[i]);
	return hash(h, "");
}

/* What makes this output another than all that could write to the same place: which server,
 * database and slot, and of one process's outputs the writer's name, or else the place and what it
 * lets through. */
static const char *origin(struct strbuf *out, const struct output *o, const char *label,
			  const struct source *source)
{
	const struct output_settings *os = o->settings;
	uint64_t h = hash_list(hash(0xcbf29ce484222325, label), &os->tables);

	strbuf_printf(out, "%" PRIu64 "/%.*s/%.*s/", source->system_id, STR_ARG(source->db),
		      STR_ARG(source->slot));
	if (os->writer)
		strbuf_str(out, str_c(os->writer));
	else
		strbuf_printf(out, "%016" PRIx64, hash_list(h, &os->actions));
	return strbuf_cstr(out);
}

int output_start(struct output *o, const struct source *source, struct sink *dead, int progress,
		 struct err *err)
{
	struct strbuf text = { 0 }, addresses = { 0 };
	struct arena arena = { 0 };
	struct sink_config config = {
		.url = o->settings->to,
		.format = o->format,
		.origin = origin(&text, o, mask(&arena, o->settings->to), source),
		.content_encoding = o->compressor ? compressor_encoding(o->compressor) : NULL,
		.max_in_flight = (uint32_t)o->settings->max_in_flight,
		.refused = output_refusal(o->settings),
		.dead = dead,
		.progress = progress,
	};

	if (o->driver->address) {
		template_pattern(&o->address, source, &o->address_rule, &addresses);
		config.addresses = strbuf_cstr(&addresses);
	}
	o->sink = sink_start(&config, err);
	strbuf_release(&text);
	strbuf_release(&addresses);
	arena_release(&arena);
	return o->sink ? 0 : -1;
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

static void put_key(const struct output *o, const struct event *e, struct strbuf *out)
{
	(o->format->key ? o->format->key : encode_key)(&o->encode, e, out);
}

/* Whether the old row had a key, and another one than the new row. */
static bool key_changed(const struct output *o, const struct event *e)
{
	struct event before = *e, after = *e;
	struct strbuf keys = { 0 };
	size_t n;
	bool changed;

	if (!e->old || !e->new)
		return false;
	before.action = ACTION_DELETE;
	before.new = NULL;
	after.action = ACTION_INSERT;
	after.old = NULL;
	put_key(o, &before, &keys);
	n = keys.n;
	put_key(o, &after, &keys);
	changed = n > 0 && !str_eq((struct str){ keys.p, n }, strbuf_since(&keys, n));
	strbuf_release(&keys);
	return changed;
}

/* Address, key, table and headers of the message, into the batch's meta. */
static void put_meta(struct output *o, const struct event *e, struct batch *b, struct message *m)
{
	struct strbuf *meta = &b->meta;
	size_t at = m->meta = meta->n;

	template_render(&o->address, e, &o->address_rule, meta);
	m->address_n = (uint32_t)(meta->n - at);
	at = meta->n;
	if (o->driver->keys && !(o->driver->key_order && key_changed(o, e)))
		put_key(o, e, meta);
	m->key_n = (uint32_t)(meta->n - at);
	at = meta->n;
	if (e->rel) {
		strbuf_str(meta, e->rel->schema);
		strbuf_ch(meta, '.');
		strbuf_str(meta, e->rel->name);
	}
	m->table_n = (uint32_t)(meta->n - at);
	at = meta->n;
	if (o->encode.headers)
		o->format->headers(&o->encode, e, meta);
	m->headers_n = (uint32_t)(meta->n - at);
}

/* A message that was huge does not keep its memory. */
#define PLAIN_KEPT (1u << 20)

/* Appends the event's message; false when the format has none. */
static bool put_body(struct output *o, const struct event *e, struct strbuf *body)
{
	if (!o->compressor)
		return o->format->event(&o->encode, e, body);
	o->plain.n = 0;
	strbuf_shrink(&o->plain, PLAIN_KEPT);
	if (!o->format->event(&o->encode, e, &o->plain))
		return false;
	compress_message(o->compressor, strbuf_view(&o->plain), body);
	return true;
}

/* The message whose body begins at `at`. */
static struct message *put_message(struct output *o, const struct event *e, size_t at, uint8_t part)
{
	struct batch *b = o->batch;
	struct message *m = batch_next(b);

	*m = (struct message){
		.at = at, .n = b->body.n - at, .position = e->position, .time = e->time, .part = part
	};
	put_meta(o, e, b, m);
	strbuf_ch(&b->body, '\n');
	o->given++;
	if (b->n++ == 0)
		b->first = o->given;
	return m;
}

static void put_part(struct output *o, const struct event *e, uint8_t part)
{
	size_t at = o->batch->body.n;

	if (put_body(o, e, &o->batch->body))
		put_message(o, e, at, part);
}

/* A delete and, where it has a key, the message without a body that makes brokers forget it. */
static void put_delete(struct output *o, const struct event *e)
{
	struct message *m;

	put_part(o, e, 0);
	m = put_message(o, e, o->batch->body.n, 1);
	m->null = true;
	if (m->key_n > 0)
		return;
	o->batch->n--;
	o->given--;
}

/* The messages of one event. */
static void put(struct output *o, const struct event *e)
{
	struct event before = *e, after = *e;

	if (!o->format->tombstones || !o->driver->nulls || !e->old) {
		put_part(o, e, 0);
		return;
	}
	before.action = ACTION_DELETE;
	before.new = NULL;
	after.action = ACTION_INSERT;
	after.old = NULL;
	if (e->action == ACTION_DELETE) {
		put_delete(o, e);
	} else if (key_changed(o, e)) {
		put_delete(o, &before);
		put_part(o, &after, 2);
	} else {
		put_part(o, e, 0);
	}
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
