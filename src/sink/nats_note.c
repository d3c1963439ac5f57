/*
 * Streams with several writers. Messages cannot name the one before them there, as that may be
 * another's. So a message that is not stored, by a leader that is lost, may leave a hole before
 * others that are, and the last message alone does not say what the stream holds.
 *
 * Hence each message carries a note, "POSITION NUMBER": when it was sent, all up to POSITION were
 * taken, and what is beyond it has a greater NUMBER in the stream. On open the last message of this
 * writer is looked for, and what lies behind the number of its note is read: of what is beyond the
 * note's position, only that is left out which is there.
 *
 * A stream that discards new messages when it is full would make holes whenever a small message
 * follows one that is too large for what is left. There each message waits for the one before.
 */
#include "sink/nats.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* How far back the last message of this writer is looked for: first near the end, then further. */
static const uint64_t reaches[] = { 2000, 20000, 200000 };

#define REACHES (sizeof(reaches) / sizeof(reaches[0]))

/* What a reading of the stream finds of this writer. */
struct finds {
	struct position *v; /* positions, in the stream's order */
	size_t n, cap;
	uint64_t last_seq; /* of the last one */
	bool noted;        /* it has a note */
	struct position base;
	uint64_t base_seq;
};

/* The number in the stream, from "$JS.ACK.STREAM.CONSUMER.DELIVERED.NUMBER..." or, from newer
 * servers, "$JS.ACK.DOMAIN.ACCOUNT.STREAM...". */
static uint64_t stream_seq(natsMsg *m)
{
	const char *at = natsMsg_GetReply(m), *parts[16];
	size_t n = 0;

	for (; at && n < 16; at = strchr(at, '.')) {
		at += *at == '.';
		parts[n++] = at;
	}
	return n < 9 ? 0 : strtoull(parts[n == 9 ? 5 : 7], NULL, 10);
}

static bool parse_note(const char *note, struct position *p, uint64_t *seq)
{
	if (strlen(note) <= POSITION_LEN || !position_parse((struct str){ note, POSITION_LEN }, p))
		return false;
	*seq = strtoull(note + POSITION_LEN, NULL, 10);
	return true;
}

static void look_at(const struct nats *n, natsMsg *m, struct finds *f)
{
	const char *note = NULL;
	struct position p;

	if (!nats_own_position(n, m, &p))
		return;
	if (f->n == f->cap) {
		f->cap = f->cap ? f->cap * 2 : 1024;
		f->v = mem_realloc(f->v, f->cap * sizeof(*f->v));
	}
	f->v[f->n++] = p;
	f->last_seq = stream_seq(m);
	f->noted = !natsMsgHeader_Get(m, NATS_NOTE, &note) &&
		   parse_note(note, &f->base, &f->base_seq);
}

static natsStatus read_messages(const struct nats *n, natsSubscription *sub, uint64_t most,
				struct finds *f)
{
	natsStatus st = NATS_OK;

	for (uint64_t i = 0; i < most && !st; i++) {
		natsMsg *m = NULL;

		st = natsSubscription_NextMsg(&m, sub, NATS_WAIT_MS);
		if (!st)
			look_at(n, m, f);
		natsMsg_Destroy(m);
	}
	return st;
}

static natsStatus add_consumer(const struct nats *n, jsCtx *js, const char *inbox, uint64_t from,
			       jsConsumerInfo **info, jsErrCode *code)
{
	jsConsumerConfig c;

	jsConsumerConfig_Init(&c);
	c.Description = "pgherald reads back what it has written";
	c.DeliverPolicy = js_DeliverByStartSequence;
	c.OptStartSeq = from;
	c.AckPolicy = js_AckNone;
	c.HeadersOnly = true;
	c.MemoryStorage = true;
	c.Replicas = 1;
	c.DeliverSubject = inbox;
	return js_AddConsumer(info, js, n->stream, &c, NULL, code);
}

/* Reads the headers of all messages from this number on. */
static int read_from(struct sink *s, natsConnection *nc, jsCtx *js, uint64_t from, struct finds *f,
		     struct err *err)
{
	const struct nats *n = s->state;
	natsInbox *inbox = NULL;
	natsSubscription *sub = NULL;
	jsConsumerInfo *info = NULL;
	jsErrCode code = 0;
	natsStatus st;

	f->n = 0;
	st = natsInbox_Create(&inbox);
	if (!st)
		st = natsConnection_SubscribeSync(&sub, nc, inbox);
	if (!st)
		st = natsSubscription_SetPendingLimits(sub, -1, -1);
	if (!st)
		st = add_consumer(n, js, inbox, from, &info, &code);
	if (!st)
		st = read_messages(n, sub, info->NumPending + info->Delivered.Consumer, f);
	if (info)
		js_DeleteConsumer(js, n->stream, info->Name, NULL, NULL);
	jsConsumerInfo_Destroy(info);
	natsSubscription_Destroy(sub);
	natsInbox_Destroy(inbox);
	return st ? nats_api_fail(s, st, code, "reading the stream back", err) : 0;
}

static int order(const void *a, const void *b)
{
	const struct position *x = a, *y = b;

	return position_cmp(*x, *y);
}

/* Takes over what is beyond the base. */
static void keep(struct nats *n, struct finds *f)
{
	n->has = f->v;
	f->v = NULL;
	for (size_t i = 0; i < f->n; i++)
		if (position_cmp(n->has[i], n->base) > 0)
			n->has[n->nhas++] = n->has[i];
	if (n->nhas)
		qsort(n->has, n->nhas, sizeof(*n->has), order);
}

static int read_notes(struct sink *s, natsConnection *nc, jsCtx *js, const jsStreamState *state,
		      struct finds *f, struct err *err)
{
	struct nats *n = s->state;
	uint64_t from = 0;

	for (size_t i = 0; i < REACHES && f->n == 0 && from != state->FirstSeq; i++) {
		from = state->LastSeq >= state->FirstSeq + reaches[i]
			       ? state->LastSeq - reaches[i] + 1
			       : state->FirstSeq;
		if (read_from(s, nc, js, from, f, err))
			return -1;
	}
	n->base_seq = state->LastSeq;
	if (f->n && !f->noted) {
		n->base = f->v[f->n - 1];
		n->base_seq = f->last_seq;
	} else if (f->n) {
		n->base = f->base;
		n->base_seq = f->base_seq;
		if (n->base_seq + 1 < from && read_from(s, nc, js, n->base_seq + 1, f, err))
			return -1;
		keep(n, f);
	}
	return 0;
}

int nats_note_open(struct sink *s, natsConnection *nc, jsCtx *js, const jsStreamState *state,
		   struct err *err)
{
	struct nats *n = s->state;
	struct finds f = { 0 };
	int failed = state->Msgs ? read_notes(s, nc, js, state, &f, err) : 0;

	free(f.v);
	n->known = state->LastSeq;
	n->nsent = s->max_in_flight + 1;
	n->sent = mem_array(n->nsent, sizeof(*n->sent));
	s->held = n->base;
	return failed;
}

bool nats_note_has(const struct nats *n, struct position p)
{
	return n->nhas && bsearch(&p, n->has, n->nhas, sizeof(p), order);
}

static const struct nats_sent *find_sent(const struct nats *n, uint64_t seq)
{
	const struct nats_sent *sent = &n->sent[seq % n->nsent];

	return sent->seq == seq ? sent : NULL;
}

void nats_note(struct sink *s, const struct batch *b, uint32_t i, char note[NATS_NOTE_SIZE])
{
	struct nats *n = s->state;
	uint64_t taken = sink_taken(s), seq = b->first + i, behind = n->base_seq;
	const struct nats_sent *last, *next;
	struct position p = n->base;

	n->sent[seq % n->nsent] = (struct nats_sent){ seq, b->messages[i].position, n->known };
	last = find_sent(n, taken);
	next = find_sent(n, taken + 1);
	if (last && next) {
		p = last->position;
		/* What was found on open has lower numbers than what is sent now. */
		if (!n->nhas || position_cmp(p, n->has[n->nhas - 1]) >= 0)
			behind = next->behind;
	}
	position_print(p, note);
	snprintf(note + POSITION_LEN, NATS_NOTE_SIZE - POSITION_LEN, " %" PRIu64, behind);
}

void nats_stored(struct nats *n, struct str number)
{
	uint64_t seq = number.n ? strtoull(number.p, NULL, 10) : 0;

	if (seq > n->known)
		n->known = seq;
}

void nats_note_close(struct nats *n)
{
	free(n->has);
	free(n->sent);
}
