/* A connection to a server that speaks Redis's protocol, plain or with TLS. Every call ends within
 * a time limit. Replies are hiredis's. */
#ifndef PGHERALD_WIRE_H
#define PGHERALD_WIRE_H

#include "base/err.h"
#include "base/strbuf.h"

#include <hiredis/hiredis.h>
#include <openssl/ssl.h>

struct wire {
	int fd; /* -1: none */
	SSL_CTX *context;
	SSL *ssl; /* NULL: plain */
	redisReader *reader;
	struct strbuf out; /* to be written */
	size_t written;    /* of it */
	int limit_ms;      /* how long the server may be silent */
	bool wants_write;  /* TLS has to write before it can read */
};

struct wire_tls {
	const char *ca, *cert, *key; /* files, or NULL */
};

/* tls is NULL for plain connections. */
int wire_open(struct wire *w, const char *host, int port, const struct wire_tls *tls, int limit_ms,
	      struct err *err) MUST_CHECK;

void wire_close(struct wire *w);

/* Begins a command of so many words, each of which is then added. */
void wire_begin(struct wire *w, size_t words);
void wire_word(struct wire *w, struct str word);

/* The whole command; the list ends with NULL. */
void wire_command(struct wire *w, ...) __attribute__((sentinel));

/* Writes what can be written without waiting. */
int wire_push(struct wire *w, struct err *err) MUST_CHECK;

/* Writes everything and waits for the next reply, which the caller frees. */
int wire_reply(struct wire *w, redisReply **reply, struct err *err) MUST_CHECK;

/* To be called when the socket is readable although no reply is awaited: fails when the connection
 * is over. */
int wire_check_idle(struct wire *w, struct err *err) MUST_CHECK;

#endif
