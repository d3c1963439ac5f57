/* The stream of a NATS output: which one, whether it fits, and what it holds already. */
#include "sink/nats.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define NO_SUCH_STREAM 10059

static uint64_t hash(struct str s)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a */

	for (size_t i = 0; i < s.n; i++)
		h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3;
	return h;
}

void nats_writer(struct sink *s)
{
	struct nats *n = s->state;

	snprintf(n->writer, sizeof(n->writer), "%016llx", (unsigned long long)hash(str_c(s->origin)));
}

/* Dead letters of several outputs may have the same position, but not the same body. */
void nats_message_id(const struct sink *s, const struct batch *b, uint32_t i, char id[NATS_ID_SIZE])
{
	const struct nats *n = s->state;

	if (s->is_dead_letter)
		snprintf(id, NATS_ID_SIZE, "%016llx-", (unsigned long long)hash(batch_body(b, i)));
	else
		snprintf(id, NATS_ID_SIZE, "%s-", n->writer);
	position_print(b->messages[i].position, id + NATS_WRITER_LEN + 1);
	id[NATS_ID_SIZE - 1] = 0;
}

/* Takes the part before the next dot off the front; false at the end. */
static bool next_token(struct str *subject, struct str *token)
{
	const char *dot;

	if (!subject->p)
		return false;
	dot = subject->n ? memchr(subject->p, '.', subject->n) : NULL;
	*token = (struct str){ subject->p, dot ? (size_t)(dot - subject->p) : subject->n };
	*subject = dot ? str_from(*subject, token->n + 1) : (struct str){ 0 };
	return true;
}

bool nats_subject_valid(struct str subject)
{
	struct str token;

	while (next_token(&subject, &token)) {
		if (token.n == 0)
			return false;
		for (size_t i = 0; i < token.n; i++)
			if ((unsigned char)token.p[i] <= ' ' || token.p[i] == '*' || token.p[i] == '>')
				return false;
	}
	return true;
}

static bool is(struct str token, char wildcard)
{
	return token.n == 1 && token.p[0] == wildcard;
}

/* Whether some subject fits both of these patterns. */
static bool overlap(struct str a, struct str b)
{
	struct str x = { 0 }, y = { 0 };

	for (;;) {
		bool more_a = next_token(&a, &x), more_b = next_token(&b, &y);

		if (!more_a || !more_b)
			return more_a == more_b;
		if (is(x, '>') || is(y, '>'))
			return true;
		if (!is(x, '*') && !is(y, '*') && !str_eq(x, y))
			return false;
	}
}

bool nats_stream_takes(const struct nats *n, struct str subject)
{
	for (size_t i = 0; i < n->nsubjects; i++)
		if (overlap(str_c(n->subjects[i]), subject))
			return true;
	return false;
}

/* The addresses as a pattern of NATS, where * is a whole part: "shop.*.a-*" is "shop.*.*". */
static void put_pattern(const struct sink *s, struct strbuf *out)
{
	struct str rest = str_c(s->addresses), token;

	while (next_token(&rest, &token)) {
		if (out->n)
			strbuf_ch(out, '.');
		strbuf_str(out, token.n && memchr(token.p, '*', token.n) ? STR("*") : token);
	}
	strbuf_cstr(out);
}

int nats_api_fail(const struct sink *s, natsStatus st, jsErrCode code, const char *what,
		  struct err *err)
{
	bool new = !(s->learned & NATS_LEARNED_OPEN);

	if (st == NATS_NO_RESPONDERS || code == JSNotEnabledErr || code == JSNotEnabledForAccountErr)
		return err_set(err, new ? ERR_CONFIG : ERR_RETRY,
			       "JetStream is not enabled on this server or for this user: start it "
			       "with nats-server -js, or publish without with core=true");
	return nats_fail(s, st, what, err);
}

static void take_config(struct nats *n, const jsStreamConfig *c)
{
	n->stream = mem_strdup(c->Name);
	n->subjects = mem_array((size_t)c->SubjectsLen + 1, sizeof(*n->subjects));
	for (int i = 0; i < c->SubjectsLen; i++)
		n->subjects[n->nsubjects++] = mem_strdup(c->Subjects[i]);
	if (c->MaxMsgSize >= 0)
		n->max_size = (size_t)c->MaxMsgSize;
}

static int make_stream(const struct sink *s, jsCtx *js, const char *name, const char *pattern,
		       jsStreamInfo **info, struct err *err)
{
	const char *subjects = sink_text(s, "subjects");
	jsStreamConfig c;
	jsErrCode code = 0;
	natsStatus st;

	if (subjects)
		pattern = subjects;
	jsStreamConfig_Init(&c);
	c.Name = name;
	c.Description = "made by pgherald";
	c.Subjects = &pattern;
	c.SubjectsLen = 1;
	c.Storage = strcmp(sink_text(s, "storage"), "memory") == 0 ? js_MemoryStorage
								   : js_FileStorage;
	c.Replicas = sink_int(s, "replicas");
	c.MaxAge = sink_int(s, "max_age") * 1000000000;
	st = js_AddStream(info, js, &c, NULL, &code);
	if (!st)
		return 0;
	if (st == NATS_TIMEOUT || code == 0)
		return nats_api_fail(s, st, code, "making the stream", err);
	nats_fail(s, st, "cannot make the stream", err);
	err->kind = ERR_CONFIG;
	return err_add(err, "stream %s for %s", name, pattern);
}

/* The stream that takes the addresses, when none is named. */
static int find_stream(const struct sink *s, jsCtx *js, const char *pattern, char **name,
		       struct err *err)
{
	jsStreamNamesList *list = NULL;
	jsErrCode code = 0;
	jsOptions o;
	natsStatus st;

	jsOptions_Init(&o);
	o.Stream.Info.SubjectsFilter = pattern;
	st = js_StreamNames(&list, js, &o, &code);
	if (st && st != NATS_NOT_FOUND)
		return nats_api_fail(s, st, code, "looking for the stream", err);
	if (list && list->Count == 1)
		*name = mem_strdup(list->List[0]);
	else if (list && list->Count > 1)
		err_set(err, ERR_CONFIG,
			"%d streams take %s, among them %s and %s: name one with stream=NAME in "
			"the "
			"URL",
			list->Count, pattern, list->List[0], list->List[1]);
	else
		err_set(err, ERR_CONFIG,
			"no stream takes %s: let pgherald make one with stream=NAME in the URL, or "
			"do it with: nats stream add NAME --subjects '%s' --defaults",
			pattern, pattern);
	jsStreamNamesList_Destroy(list);
	return *name ? 0 : -1;
}

static int get_stream(struct sink *s, jsCtx *js, const char *pattern, jsStreamInfo **info,
		      struct err *err)
{
	const char *named = sink_text(s, "stream");
	jsErrCode code = 0;
	char *name = NULL;
	natsStatus st;
	int failed = 0;

	if (named)
		name = mem_strdup(named);
	else if (find_stream(s, js, pattern, &name, err))
		return -1;
	st = js_GetStreamInfo(info, js, name, NULL, &code);
	if (st == NATS_NOT_FOUND || code == NO_SUCH_STREAM)
		failed = make_stream(s, js, name, pattern, info, err);
	else if (st)
		failed = nats_api_fail(s, st, code, "looking at the stream", err);
	free(name);
	return failed;
}

bool nats_own_position(const struct nats *n, natsMsg *m, struct position *p)
{
	const char *id = NULL;

	if (natsMsgHeader_Get(m, "Nats-Msg-Id", &id) || strlen(id) != NATS_ID_SIZE - 1 ||
	    memcmp(id, n->writer, NATS_WRITER_LEN) != 0)
		return false;
	return position_parse((struct str){ id + NATS_WRITER_LEN + 1, POSITION_LEN }, p);
}

/* The last message of the stream; NULL when there is none. */
static int get_last(struct sink *s, jsCtx *js, const jsStreamState *state, natsMsg **m,
		    struct err *err)
{
	struct nats *n = s->state;
	jsErrCode code = 0;
	natsStatus st;

	if (state->Msgs == 0)
		return 0;
	st = js_GetMsg(m, js, n->stream, state->LastSeq, NULL, &code);
	if (st && st != NATS_NOT_FOUND)
		return nats_api_fail(s, st, code, "reading the stream's last message", err);
	return 0;
}

/* Whether somebody else writes to the stream, or did last: then messages cannot be chained. */
static bool is_shared(const struct sink *s, natsMsg *last)
{
	const char *note = NULL;

	if (s->learned & NATS_LEARNED_SHARED)
		return true;
	if (!last)
		return false;
	return !nats_own_position(s->state, last, &(struct position){ 0 }) ||
	       !natsMsgHeader_Get(last, NATS_NOTE, &note);
}

static int read_back(struct sink *s, natsConnection *nc, jsCtx *js, const jsStreamInfo *info,
		     struct err *err)
{
	struct nats *n = s->state;
	natsMsg *last = NULL;
	bool shared;

	if (s->is_dead_letter)
		return 0;
	if (get_last(s, js, &info->State, &last, err))
		return -1;
	shared = is_shared(s, last);
	if (!shared && last)
		nats_own_position(n, last, &s->held);
	natsMsg_Destroy(last);
	n->chained = !shared;
	n->one_by_one = shared && info->Config->Discard == js_DiscardNew;
	n->noted = shared && !n->one_by_one;
	return shared ? nats_note_open(s, nc, js, &info->State, err) : 0;
}

static int look(struct sink *s, natsConnection *nc, jsCtx *js, const char *pattern, struct err *err)
{
	struct nats *n = s->state;
	jsStreamInfo *info = NULL;
	int failed = get_stream(s, js, pattern, &info, err);

	if (failed)
		return -1;
	take_config(n, info->Config);
	if (!nats_stream_takes(n, str_c(pattern)))
		failed = err_set(err, ERR_CONFIG,
				 "stream %s has no subject that fits %s: add it with: nats stream "
				 "edit %s --subjects ..., or name another stream",
				 n->stream, pattern, n->stream);
	else
		failed = read_back(s, nc, js, info, err);
	jsStreamInfo_Destroy(info);
	return failed;
}

int nats_stream_open(struct sink *s, natsConnection *nc, struct err *err)
{
	struct strbuf pattern = { 0 };
	jsCtx *js = NULL;
	natsStatus st = natsConnection_JetStream(&js, nc, NULL);
	int failed;

	if (st)
		return nats_fail(s, st, "using JetStream", err);
	put_pattern(s, &pattern);
	failed = look(s, nc, js, pattern.p, err);
	jsCtx_Destroy(js);
	strbuf_release(&pattern);
	return failed;
}

void nats_stream_close(struct nats *n)
{
	for (size_t i = 0; i < n->nsubjects; i++)
		free(n->subjects[i]);
	free(n->subjects);
	free(n->stream);
}
