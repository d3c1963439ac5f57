/* What the files of the Redis driver share. */
#ifndef PGHERALD_REDIS_H
#define PGHERALD_REDIS_H

#include "sink/sink.h"
#include "sink/wire.h"

/* The hash that says for each stream who writes it. */
#define REDIS_WRITERS "pgherald:writers"

/* Streams that are known to be ours; a power of two. When half are taken, all are forgotten. */
#define REDIS_CLAIMS 4096

/* sink->learned: others write to our streams, so that ids alone do not tell what is there. */
#define REDIS_LEARNED_OTHERS 1

#define REDIS_CLIENT_SIZE 40

struct claim {
	char *name; /* NULL: free */
	size_t n;
	struct position from; /* ids up to here are from before our time, or may be others' */
	struct position top;  /* the highest id that this connection knows of */
};

/* Entries of one batch that go together. */
struct redis_entries {
	const struct batch *batch;
	uint32_t *v; /* their indices in it */
	uint32_t n, cap;
	bool old; /* one is from before our time in its stream: its reply may raise a question */
};

struct redis {
	struct wire wire;
	size_t max_bulk;
	/* Words that all entries have, as they are written: before the name, after it, after the id. */
	struct strbuf xadd, trim, field;
	char client[REDIS_CLIENT_SIZE]; /* our connection's name */
	struct strbuf name, id;
	struct claim *claims;
	uint32_t nclaims;
	struct redis_entries next; /* to be sent */
	struct redis_entries sent; /* n: their replies are awaited */
};

extern const struct sink_driver sink_redis;

/* ---- redis_conn.c ---- */

/* Connects to the first host that answers, and logs in. w is zeroed before; the caller closes it
 * also after a failure. */
int redis_connect(struct wire *w, const struct url *url, struct err *err) MUST_CHECK;

/* The number of the database, which may stand before the stream's name, and how long it is; -1:
 * there is none. */
int redis_database(const struct url *url, size_t *n);

bool redis_says(const redisReply *r, const char *word);

/* What an error means that is not about one message. */
int redis_fail(const redisReply *r, struct err *err);

/* The reply to the last command; an error is one, unless the caller allows them. */
int redis_reply(struct wire *w, bool may_fail, redisReply **out, struct err *err) MUST_CHECK;

/* The same where the reply itself does not matter. */
int redis_done(struct wire *w, bool may_fail, struct err *err) MUST_CHECK;

/* ---- redis_claim.c ---- */

/* The name of the connections of the output with this origin. */
void redis_client_name(char out[REDIS_CLIENT_SIZE], struct str origin);

/* Makes sure, once for a connection, that no other output writes to this stream. Dead letters claim
 * nothing: CONFIG when the stream is an output's, whose ids theirs would overtake. */
int redis_claim(struct sink *s, struct str name, struct err *err) MUST_CHECK;

/* The claim on this stream; one without a name when there is none. */
struct claim *redis_claim_of(struct redis *r, struct str name);

void redis_forget_claims(struct redis *r);

#endif
