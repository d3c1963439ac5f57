#include "core/loop.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

static void add(struct loop *l, int fd)
{
	epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd,
		  &(struct epoll_event){ .events = EPOLLIN, .data.fd = fd });
}

int loop_open(struct loop *l, int tick_ms, struct err *err)
{
	struct timespec every = { tick_ms / 1000, tick_ms % 1000 * 1000000L };

	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	l->progress = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->tick = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->epoll < 0 || l->progress < 0 || l->tick < 0)
		return err_set(err, ERR_FAIL, "cannot make an event loop: %s", strerror(errno));
	timerfd_settime(l->tick, 0, &(struct itimerspec){ every, every }, NULL);
	add(l, l->progress);
	add(l, l->tick);
	return 0;
}

void loop_close(struct loop *l)
{
	const int fds[] = { l->epoll, l->progress, l->tick };

	for (size_t i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	*l = LOOP_CLOSED;
}

void loop_watch(struct loop *l, int socket)
{
	l->socket = socket;
	l->watching = true;
	add(l, socket);
}

void loop_unwatch(struct loop *l)
{
	l->watching = false;
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, l->socket, &(struct epoll_event){ 0 });
}

static void empty_fd(int fd)
{
	uint64_t n;

	if (read(fd, &n, sizeof(n)) < 0) {
		/* nothing was there */
	}
}

bool loop_wait(struct loop *l, int timeout_ms)
{
	struct epoll_event ev[4];
	bool readable = false;
	int n = epoll_wait(l->epoll, ev, 4, timeout_ms);

	for (int i = 0; i < n; i++) {
		if (ev[i].data.fd == l->progress || ev[i].data.fd == l->tick)
			empty_fd(ev[i].data.fd);
		else
			readable = true;
	}
	return readable;
}

void loop_wake(const struct loop *l)
{
	uint64_t one = 1;

	if (write(l->progress, &one, sizeof(one)) < 0) {
		/* the tick will see it */
	}
}
