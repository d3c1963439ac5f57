/* For client libraries that write each message by itself: between cork(fd, true) and
 * cork(fd, false) a TCP socket sends full packets only, which saves both sides most of their work.
 * See tcp(7), TCP_CORK. */
#ifndef PGHERALD_CORK_H
#define PGHERALD_CORK_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/socket.h>

static inline void cork(int fd, bool on)
{
	setsockopt(fd, IPPROTO_TCP, TCP_CORK, &(int){ on }, sizeof(int));
}

#endif
