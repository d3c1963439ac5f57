/* A connection to an MQTT broker, of an output or a reader. The library's network work is done by
 * the caller's thread, which calls mqtt_conn_work. */
#ifndef PGHERALD_MQTT_CONN_H
#define PGHERALD_MQTT_CONN_H

#include "base/err.h"
#include "base/url.h"

#include <mosquitto.h>

struct mqtt_conn {
	struct mosquitto *client; /* its callbacks get this struct */
	void *owner;
	bool v5;
	bool answered;  /* CONNACK has come */
	struct err err; /* why the connection is over, once it is */
	char last[300]; /* the last words of the library */
};

int mqtt_conn_check(const struct url *url, struct err *err);

/* Makes the client; the owner may then set its callbacks. id NULL: the library makes one up. */
int mqtt_conn_make(struct mqtt_conn *q, const struct url *url, const char *id, void *owner,
		   struct err *err) MUST_CHECK;

/* Connects and waits for the broker's answer. */
int mqtt_conn_open(struct mqtt_conn *q, const struct url *url, struct err *err) MUST_CHECK;

/* Also after a failed open. */
void mqtt_conn_close(struct mqtt_conn *q);

/* One round of reading and writing; waits for it up to timeout_ms, which may end early, as when
 * wake is readable (-1: none). */
int mqtt_conn_work(struct mqtt_conn *q, int wake, int timeout_ms, struct err *err) MUST_CHECK;

/* Whether the connection has failed; rc is what the library's last function returned. */
int mqtt_conn_verdict(struct mqtt_conn *q, int rc, struct err *err) MUST_CHECK;

/* The connection is over; the first reason stands. */
void mqtt_conn_over(struct mqtt_conn *q, enum err_kind kind, const char *what, const char *why);

#endif
