/*
 * A connection to RabbitMQ with one channel: what the output and the reader of `consume` share.
 * Errors come with a kind: what passes is RETRY, what the user has to mend CONFIG.
 */
#ifndef PGHERALD_AMQP_CONN_H
#define PGHERALD_AMQP_CONN_H

#include "base/err.h"
#include "base/url.h"

#include <amqp.h>
#include <amqp_framing.h>

#define AMQP_CHANNEL 1

struct amqp_wanted {
	const struct url *url;
	const char *ca, *cert, *cert_key; /* NULL: the system's authorities; no certificate */
	int heartbeat;                    /* seconds; 0: none */
	const char *label;                /* shown by the broker's tools */
};

/* A zeroed struct is closed. */
struct amqp_conn {
	amqp_connection_state_t state;
	int fd;
	bool well; /* logged in and not broken since: worth a goodbye */
};

/* Connects to the first host of the URL that answers, logs in and opens the channel. */
int amqp_conn_open(struct amqp_conn *c, const struct amqp_wanted *w, struct err *err) MUST_CHECK;

/* Also of one that is closed or half open; takes no longer than half a second. */
void amqp_conn_close(struct amqp_conn *c);

/* The next frame that is there already; 1: there was one, 0: none. Keeps the heartbeats. It is
 * valid until amqp_maybe_release_buffers. */
int amqp_conn_frame(struct amqp_conn *c, amqp_frame_t *frame, struct err *err) MUST_CHECK;

/* 0 when the last call that waits for the broker's answer went well. */
int amqp_conn_reply(struct amqp_conn *c, const char *what, struct err *err) MUST_CHECK;

/* The broker closes the channel or the connection: always an error. */
int amqp_conn_closed(struct amqp_conn *c, const amqp_method_t *m, struct err *err) MUST_CHECK;

/* What a call of the library returned, as an error. */
int amqp_conn_fail(struct amqp_conn *c, const char *what, int status, struct err *err) MUST_CHECK;

/* The virtual host that a URL names. */
const char *amqp_conn_vhost(const struct url *url);

static inline amqp_bytes_t amqp_str(struct str s)
{
	return (amqp_bytes_t){ s.n, (void *)(uintptr_t)s.p };
}

static inline struct str amqp_text(amqp_bytes_t b)
{
	return (struct str){ b.bytes, b.len };
}

#endif
