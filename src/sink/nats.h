/* What the files of the NATS driver share. */
#ifndef PGHERALD_NATS_H
#define PGHERALD_NATS_H

#include "sink/sink.h"

#include <nats/nats.h>

/* How long any call may take. */
#define NATS_WAIT_MS 5000

/* Bits of sink->learned: it has been open; the stream has other writers. */
#define NATS_LEARNED_OPEN 1u
#define NATS_LEARNED_SHARED 2u

/* "0123456789abcdef-000000000153A978-00000003", terminated. */
#define NATS_WRITER_LEN 16
#define NATS_ID_SIZE (NATS_WRITER_LEN + 1 + POSITION_LEN + 1)

/* The library hands each message that is destroyed to a thread of its own, which is woken whenever
 * it has none: so they are destroyed many at a time. */
#define NATS_SPENT 1024

/* The headers of a message, without and with the second one. */
#define NATS_HEADERS 69
#define NATS_HEADERS_MORE 71

/* The header of notes. */
#define NATS_NOTE "Pgherald-Taken"

/* A message that was given to this connection. */
struct nats_sent {
	uint64_t seq;
	struct position position;
	uint64_t behind; /* its number in the stream is greater than this */
};

struct nats {
	natsConnection *nc;
	int fd;
	natsSubscription *acks;
	char *inbox; /* replies come to INBOX.SEQ, in hex */
	size_t inbox_n;
	uint32_t unanswered;
	int64_t heard_ms; /* when the last answer came, or the first message went after silence */
	struct strbuf subject;
	natsMsg *spent[NATS_SPENT]; /* not needed any more, not destroyed yet */
	uint32_t nspent;
	char id[NATS_ID_SIZE];
	char last_id[NATS_ID_SIZE]; /* of the message before; empty: none on this connection */

	char writer[NATS_WRITER_LEN + 1];
	char *stream; /* NULL: core */
	char **subjects;
	size_t nsubjects;
	size_t max_size; /* headers and body */
	bool chained;    /* each message names the one before */
	bool one_by_one; /* each message waits for the acknowledgement of the one before */
	bool noted;      /* each message says what was taken when it was sent */

	/* noted only */
	uint64_t known;       /* the highest number of the stream that we have heard of */
	struct position base; /* when opened, the stream held all up to here */
	uint64_t base_seq;    /* and nothing beyond it up to this number */
	struct position *has; /* but these beyond it, sorted */
	size_t nhas;
	struct nats_sent *sent; /* a ring, by sequence number */
	uint32_t nsent;
};

extern const struct sink_driver sink_nats;

/* ---- nats_conn.c ---- */

/* Connects to the first host of the URL that answers. With fd, where the socket is then put, the
 * caller's own thread serves the connection; else the library's do. */
int nats_connect(const struct url *url, int *fd, natsConnection **nc, struct err *err) MUST_CHECK;

/* ---- nats.c ---- */

int nats_fail(const struct sink *s, natsStatus st, const char *what, struct err *err);

/* ---- nats_stream.c ---- */

/* Sets n->writer. */
void nats_writer(struct sink *s);

void nats_message_id(const struct sink *s, const struct batch *b, uint32_t i, char id[NATS_ID_SIZE]);

/* Whether it can be published to. */
bool nats_subject_valid(struct str subject);

/* Finds the stream or makes it, and what it holds of this writer. */
int nats_stream_open(struct sink *s, natsConnection *nc, struct err *err);

void nats_stream_close(struct nats *n);

int nats_api_fail(const struct sink *s, natsStatus st, jsErrCode code, const char *what,
		  struct err *err);

/* The position in a message's id if this writer wrote it. */
bool nats_own_position(const struct nats *n, natsMsg *m, struct position *p);

/* Whether a message with this subject goes into the stream. */
bool nats_stream_takes(const struct nats *n, struct str subject);

/* ---- nats_note.c: streams with several writers ---- */

/* Reads from the stream's notes what it holds of this writer. */
int nats_note_open(struct sink *s, natsConnection *nc, jsCtx *js, const jsStreamState *state,
		   struct err *err);

/* The message is about to be sent. Fills in what its note says. */
#define NATS_NOTE_SIZE (POSITION_LEN + 1 + 20 + 1)
void nats_note(struct sink *s, const struct batch *b, uint32_t i, char note[NATS_NOTE_SIZE]);

/* A message was stored under this number of the stream. */
void nats_stored(struct nats *n, struct str number);

/* Whether the stream already has it, although it is behind sink->held. */
bool nats_note_has(const struct nats *n, struct position p);

void nats_note_close(struct nats *n);

#endif
