/*
 * file:PATH appends one message a line. Taken when fsync has returned, which is called each second
 * while there is something to sync, and earlier when much is in flight.
 *
 * Whole lines only: what a crash or a full disk left behind the last newline is cut when the file
 * is opened, and the last line's position tells what not to write again.
 *
 * PATH.position is one line, always of the same length:
 *
 *     POSITION LENGTH LSN SYSTEM TIMELINE
 *
 * The last three are the mark. The first two serve formats whose lines carry no position: after
 * each fsync they say how far the file is whole, and up to which event.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"
#include "sink/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNC_EVERY_MS 1000

struct file {
	int fd;
	int beside;           /* PATH.position, or -1 */
	struct position last; /* of the last message written */
	size_t unsynced;      /* bytes */
	int64_t oldest_ms;    /* when the first of them was written */
	uint64_t written;     /* the last sequence number written */
};

static int fail(const struct sink *s, const char *what, struct err *err)
{
	bool passes = errno == ENOSPC || errno == EDQUOT || errno == EIO || errno == EAGAIN;

	return err_set(err, passes ? ERR_RETRY : ERR_CONFIG, "cannot %s %s: %s", what, s->url.path,
		       strerror(errno));
}

/* Reads backwards from `end` for the last newline before it; returns its offset or -1. */
static off_t last_newline(int fd, off_t end)
{
	char block[65536];

	while (end > 0) {
		off_t from = end > (off_t)sizeof(block) ? end - (off_t)sizeof(block) : 0;
		ssize_t n = pread(fd, block, (size_t)(end - from), from);
		char *nl = n > 0 ? memrchr(block, '\n', (size_t)n) : NULL;

		if (n <= 0)
			return -1;
		if (nl)
			return from + (nl - block);
		end = from;
	}
	return -1;
}

/* Takes the position from the last whole line, [from, to). */
static int read_position(struct sink *s, int fd, off_t from, off_t to, struct err *err)
{
	struct strbuf line = { 0 };
	size_t n = (size_t)(to - from);
	int failed = 0;

	if (!s->format->position || n == 0)
		return 0;
	if (pread(fd, strbuf_room(&line, n), n, from) != (ssize_t)n)
		failed = fail(s, "read", err);
	else if (!s->format->position((struct str){ line.p, n }, &s->held))
		failed = err_set(err, ERR_CONFIG,
				 "the last line of %s is not an event in format %s: move the file "
				 "away or name another one",
				 s->url.path, s->format->name);
	strbuf_release(&line);
	return failed;
}

#define BESIDE_LEN (POSITION_LEN + 1 + 20 + 1 + 16 + 1 + 20 + 1 + 10 + 1)

static int write_beside(struct sink *s, const struct mark *m, struct err *err)
{
	struct file *f = s->state;
	char line[BESIDE_LEN + 1];
	struct stat st;

	if (f->beside < 0)
		return 0;
	if (fstat(f->fd, &st))
		return fail(s, "look at", err);
	position_print(f->last, line);
	snprintf(line + POSITION_LEN, sizeof(line) - POSITION_LEN,
		 " %020jd %016" PRIX64 " %020" PRIu64 " %010" PRIu32 "\n", (intmax_t)st.st_size,
		 m->lsn, m->system_id, m->timeline);
	if (pwrite(f->beside, line, BESIDE_LEN, 0) != BESIDE_LEN || fdatasync(f->beside))
		return fail(s, "write the position beside", err);
	s->mark = *m;
	return 0;
}

/* Takes the position, the length and the mark from beside the file, where they are. */
static int read_beside(struct sink *s, struct position *last, off_t *whole, struct err *err)
{
	struct file *f = s->state;
	char *path = NULL, line[BESIDE_LEN + 1] = "", *at = line + POSITION_LEN;

	if (asprintf(&path, "%s.position", s->url.path) < 0)
		mem_die();
	f->beside = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	free(path);
	if (f->beside < 0)
		return fail(s, "open the position beside", err);
	if (pread(f->beside, line, BESIDE_LEN, 0) != BESIDE_LEN ||
	    !position_parse((struct str){ line, POSITION_LEN }, last))
		return 0;
	*whole = (off_t)strtoull(at, &at, 10);
	s->mark.lsn = strtoull(at, &at, 16);
	s->mark.system_id = strtoull(at, &at, 10);
	s->mark.timeline = (uint32_t)strtoul(at, &at, 10);
	return 0;
}

/* Reads the last whole line's position and cuts what is behind it. */
static int resume_lines(struct sink *s, int fd, off_t size, struct err *err)
{
	off_t end = last_newline(fd, size);
	off_t begin = end > 0 ? last_newline(fd, end) + 1 : 0;

	if (end >= 0 && read_position(s, fd, begin, end, err))
		return -1;
	if (end + 1 != size && ftruncate(fd, end + 1))
		return fail(s, "cut the torn last line of", err);
	return 0;
}

static int resume(struct sink *s, int fd, struct err *err)
{
	struct file *f = s->state;
	off_t whole = -1;
	struct stat st;

	if (fstat(fd, &st))
		return fail(s, "look at", err);
	if (!S_ISREG(st.st_mode))
		return 0;
	if (read_beside(s, &f->last, &whole, err))
		return -1;
	if (st.st_size == 0) { /* a new file, whatever one of that name there was before */
		f->last = (struct position){ 0 };
		s->mark = (struct mark){ 0 };
		whole = 0;
	}
	if (s->format->position)
		return resume_lines(s, fd, st.st_size, err);
	s->held = f->last;
	if (whole >= 0 && whole < st.st_size && ftruncate(fd, whole))
		return fail(s, "cut the end of", err);
	return write_beside(s, &s->mark, err); /* from here on a crash cuts back to this */
}

static int file_open(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	f->beside = -1;
	f->fd = open(s->url.path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (f->fd < 0)
		return fail(s, "open", err);
	if (flock(f->fd, LOCK_EX | LOCK_NB))
		return err_set(err, ERR_RETRY, "%s is being written by another process", s->url.path);
	return resume(s, f->fd, err);
}

static int sync_now(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	if (!f->unsynced)
		return 0;
	if (fdatasync(f->fd) && errno != EINVAL && errno != EROFS) /* pipes cannot be synced */
		return fail(s, "sync", err);
	if (!s->format->position && write_beside(s, &s->mark, err))
		return -1;
	f->unsynced = 0;
	sink_took(s, f->written);
	return 0;
}

/* What is written beside must not be ahead of what is durable. */
static int file_mark(struct sink *s, const struct mark *m, struct err *err)
{
	if (sync_now(s, err))
		return -1;
	return write_beside(s, m, err);
}

static int file_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	struct file *f = s->state;
	size_t at = b->messages[from].at, end = b->messages[to - 1].at + b->messages[to - 1].n + 1;

	while (at < end) {
		ssize_t n = write(f->fd, b->body.p + at, end - at);

		if (n < 0 && errno != EINTR)
			return fail(s, "write to", err);
		if (n <= 0)
			continue;
		if (!f->unsynced)
			f->oldest_ms = clock_ms();
		f->unsynced += (size_t)n;
		at += (size_t)n;
	}
	f->written = b->first + to - 1;
	f->last = b->messages[to - 1].position;
	return 0;
}

static int file_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct file *f = s->state;

	if (f->unsynced) {
		int64_t left = f->oldest_ms + SYNC_EVERY_MS - clock_ms();

		if (left <= 0 || sink_pressed(s))
			return sync_now(s, err);
		if (timeout_ms < 0 || timeout_ms > left)
			timeout_ms = (int)left;
	}
	if (timeout_ms)
		sink_wait(s, timeout_ms);
	return 0;
}

static void file_close(struct sink *s)
{
	struct file *f = s->state;

	if (f->beside > 0)
		close(f->beside);
	if (f->fd > 0)
		close(f->fd);
}

static int file_check(const struct url *url, struct err *err)
{
	return url->path[0] ? 0 : err_set(err, ERR_CONFIG, "it names no file, as file:PATH does");
}

const struct sink_driver sink_file = {
	.name = "file",
	.check = file_check,
	.schemes = (const char *const[]){ "file", NULL },
	.help = "file:PATH  appends one event a line; taken when it is on disk. A torn last line, "
		"as a "
		"crash leaves, is cut, and what the file holds already is not written again",
	.state_size = sizeof(struct file),
	.open = file_open,
	.send = file_send,
	.poll = file_poll,
	.flush = sync_now,
	.mark = file_mark,
	.close = file_close,
};
