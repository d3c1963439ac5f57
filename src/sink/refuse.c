#include "sink/refuse.h"

#include "base/base64.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <time.h>

/* The batch that holds this number, among those that are sent. */
static struct batch *find_batch(const struct sink *s, uint64_t seq)
{
	for (struct batch *b = s->sent; b; b = b->next)
		if (seq >= b->first && seq < b->first + b->n)
			return b;
	return NULL;
}

static void put_member(struct strbuf *out, const char *name, struct str value)
{
	strbuf_printf(out, ",\"%s\":", name);
	json_string(out, value);
}

/* As text, or in base64 under another name where it is none. */
static void put_bytes(struct strbuf *out, const char *name, const char *base64_name, struct str value)
{
	struct strbuf text = { 0 };

	if (utf8_valid(value)) {
		put_member(out, name, value);
		return;
	}
	base64_encode(&text, value);
	put_member(out, base64_name, strbuf_view(&text));
	strbuf_release(&text);
}

/* One JSON object: what was to go where, why it did not, and its bytes as they were. */
static void put_letter(struct strbuf *out, const struct sink *s, const struct batch *b, uint32_t i,
		       const char *why)
{
	const struct message *m = &b->messages[i];
	char id[POSITION_LEN];

	position_print(m->position, id);
	strbuf_printf(out, "{\"id\":\"%.*s\"", POSITION_LEN, id);
	if (m->time) {
		strbuf_lit(out, ",\"time\":\"");
		time_print(out, m->time, 'T', 6);
		strbuf_lit(out, "Z\"");
	}
	put_member(out, "output", str_c(s->label));
	put_member(out, "table", batch_table(b, i));
	put_member(out, "reason", str_c(why));
	put_member(out, "address", batch_address(b, i));
	put_bytes(out, "key", "key_base64", batch_key(b, i));
	if (m->null)
		strbuf_lit(out, ",\"body\":null");
	else
		put_bytes(out, "body", "body_base64", batch_body(b, i));
	if (s->content_encoding)
		put_member(out, "encoding", str_c(s->content_encoding));
	strbuf_ch(out, '}');
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

/* Outputs may share their sink for dead letters. */
static pthread_mutex_t letters = PTHREAD_MUTEX_INITIALIZER;

/* Where a letter goes: the URL says it, or the driver's own address where that is no template. */
static const char *letter_address(const struct sink *dead)
{
	return strchr(dead->addresses, '{') ? "dead-letter" : dead->addresses;
}

/* Puts a letter into the dead sink's queue; returns its number there, 0 when there is no room. */
static uint64_t post(struct sink *s, const struct batch *b, uint32_t i, const char *why)
{
	struct sink *dead = s->dead;
	struct batch *letter;
	uint64_t seq = 0;

	pthread_mutex_lock(&letters);
	letter = sink_batch(dead);
	if (letter) {
		struct message *m = batch_next(letter);

		*m = (struct message){ .position = b->messages[i].position,
				       .time = b->messages[i].time };
		put_letter(&letter->body, s, b, i, why);
		m->n = letter->body.n;
		strbuf_ch(&letter->body, '\n');
		strbuf_str(&letter->meta, str_c(letter_address(dead)));
		m->address_n = (uint32_t)letter->meta.n;
		strbuf_str(&letter->meta, batch_key(b, i));
		m->key_n = (uint32_t)letter->meta.n - m->address_n;
		letter->n = 1;
		letter->first = seq = ++dead->letters;
		sink_send(dead, letter);
	}
	pthread_mutex_unlock(&letters);
	return seq;
}

/* Returns when the letter is durable, or the end is wanted: then the message is not taken. */
static bool dead_letter(struct sink *s, const struct batch *b, uint32_t i, const char *why)
{
	uint64_t seq = 0;

	while (!(seq = post(s, b, i, why)) && !sink_ending(s))
		nap();
	if (seq)
		sink_drain(s->dead);
	while (seq && sink_taken(s->dead) < seq)
		if (sink_ending(s))
			return false;
		else
			nap();
	return seq != 0;
}

static int settle(struct sink *s, const struct refusal *r, struct err *err)
{
	struct batch *b = find_batch(s, r->seq);
	uint32_t i = b ? (uint32_t)(r->seq - b->first) : 0;
	char id[POSITION_LEN];
	struct str table;

	if (!b || sink_taken(s) >= r->seq || b->messages[i].refused)
		return 0;
	s->counts.refused++;
	table = batch_table(b, i);
	position_print(b->messages[i].position, id);
	if (s->refused == REFUSED_STOP)
		return err_set(
			err, ERR_FAIL,
			"event %.*s%s%.*s was refused: %s. To go on without such events, set "
			"on_refused to skip or dead-letter",
			POSITION_LEN, id, table.n ? " of " : "", STR_ARG(table), r->why);
	log_warn("output %s refused event %.*s%s%.*s: %s; %s", s->label, POSITION_LEN, id,
		 table.n ? " of " : "", STR_ARG(table), r->why,
		 s->dead ? "it goes to the dead letters" : "skipped");
	if (s->refused == REFUSED_SKIP || dead_letter(s, b, i, r->why)) {
		b->messages[i].refused = true;
		sink_ack(s, r->seq);
	}
	return 0;
}

static struct refusal *next_refusal(struct sink *s)
{
	struct refusal *r;

	pthread_mutex_lock(&s->lock);
	r = s->refusals;
	if (r)
		s->refusals = r->next;
	pthread_mutex_unlock(&s->lock);
	return r;
}

int refuse_settle(struct sink *s, struct err *err)
{
	struct refusal *r;
	int failed = 0;

	while (!failed && (r = next_refusal(s))) {
		r->next = NULL;
		failed = settle(s, r, err);
		refuse_free(r);
	}
	return failed;
}

void refuse_free(struct refusal *r)
{
	while (r) {
		struct refusal *next = r->next;

		free(r->why);
		free(r);
		r = next;
	}
}
