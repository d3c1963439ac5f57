/*
 * The thread of a sink: takes the batches that the reader hands over, sends them through the driver
 * within the window, and after a failure closes, backs off, opens and sends again. sink.c and this
 * know the inside of struct sink; the reader and the drivers do not need to.
 */
#ifndef PGHERALD_SINK_THREAD_H
#define PGHERALD_SINK_THREAD_H

#include "sink/sink.h"

#include <sys/eventfd.h>

/* The most messages in flight to one sink. */
#define SINK_WINDOW 16384

/* pthread_create's; arg is the struct sink. */
void *sink_thread_run(void *arg);

/* Wakes whoever polls this eventfd. */
static inline void sink_thread_signal(int fd)
{
	eventfd_write(fd, 1);
}

#endif
