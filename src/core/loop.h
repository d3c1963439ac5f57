/*
 * What the reader waits for: the server's socket, the outputs' progress, and a tick. One descriptor
 * stands for all three, so that a caller's event loop can wait for it too.
 */
#ifndef PGHERALD_LOOP_H
#define PGHERALD_LOOP_H

#include "base/err.h"

#include <stdbool.h>

struct loop {
	int epoll;
	int progress;  /* an eventfd that other threads and signal handlers write to */
	int tick;      /* a timerfd */
	int socket;    /* the server's; meaningful while it is watched */
	bool watching; /* the socket is in the set */
};

#define LOOP_CLOSED ((struct loop){ .epoll = -1, .progress = -1, .tick = -1 })

/* Everything with a time of its own is looked at each tick. */
int loop_open(struct loop *l, int tick_ms, struct err *err) MUST_CHECK;
void loop_close(struct loop *l);

void loop_watch(struct loop *l, int socket);
void loop_unwatch(struct loop *l);

/* Waits up to timeout_ms (-1: as long as needed); returns whether the socket is readable. */
bool loop_wait(struct loop *l, int timeout_ms);

/* Ends the wait. From any thread and from signal handlers. */
void loop_wake(const struct loop *l);

#endif
