/*
 * file:PATH appends one message a line. Taken when fsync has returned, which is called each second
 * while there is something to sync, and earlier when much is in flight.
 *
 * Whole lines only: what a crash or a full disk left behind the last newline is cut when the file
 * is opened, and the last line's position tells what not to write again.
 *
 * Formats whose lines carry no position go by the line beside the file (file_position.c): after
 * each fsync it says how far the file is whole, and up to which event. For all formats it says what
 * the last file held when this one is empty because it is new.
 */
#include "sink/file.h"
#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNC_EVERY_MS 1000

int file_fail(const struct sink *s, const char *what, struct err *err)
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

	if (n == 0)
		return 0;
	if (pread(fd, strbuf_room(&line, n), n, from) != (ssize_t)n)
		failed = file_fail(s, "read", err);
	else if (!s->format->position((struct str){ line.p, n }, &s->held))
		failed = err_set(err, ERR_CONFIG,
				 "the last line of %s is not an event in format %s: move the file "
				 "away or name another one",
				 s->url.path, s->format->name);
	strbuf_release(&line);
	return failed;
}

/* Reads the last whole line's position and cuts what is behind it. */
static int resume_lines(struct sink *s, struct err *err)
{
	struct file *f = s->state;
	off_t end = last_newline(f->fd, f->size);
	off_t begin = end > 0 ? last_newline(f->fd, end) + 1 : 0;

	if (end >= 0 && read_position(s, f->fd, begin, end, err))
		return -1;
	if (end + 1 != f->size && ftruncate(f->fd, end + 1))
		return file_fail(s, "cut the torn last line of", err);
	f->size = end + 1;
	return 0;
}

/* An empty file is a new one, whatever one of that name there was before, unless the note says that
 * it is empty because what was in it is in a closed file. */
static int resume(struct sink *s, const struct file_note *note, struct err *err)
{
	struct file *f = s->state;
	bool moved = note->length == 0 && note->last.lsn;

	s->held = note->last;
	if (f->size == 0 && !moved) {
		s->held = (struct position){ 0 };
		s->mark = (struct mark){ 0 };
	} else if (!s->format->position && note->found && f->size >= note->length) {
		if (f->size > note->length && ftruncate(f->fd, note->length))
			return file_fail(s, "cut the end of", err);
		f->size = note->length;
	} else if (s->format->position) {
		if (!moved)
			s->held = (struct position){ 0 };
		if (resume_lines(s, err))
			return -1;
	}
	f->last = s->held;
	return file_note_write(s, false, &s->mark, err); /* a crash cuts back to this */
}

/* Opens the file of f->day; a dated one need not be there. */
static int open_path(struct sink *s, int flags, struct err *err)
{
	struct file *f = s->state;
	char *path = file_name(s->url.path, f->day, 0);
	struct stat st;

	f->fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC | flags, 0644);
	free(path);
	f->size = 0;
	if (f->fd < 0)
		return errno == ENOENT && !flags ? 0 : file_fail(s, "open", err);
	if (flock(f->fd, LOCK_EX | LOCK_NB))
		return err_set(err, ERR_RETRY, "%s is being written by another process", s->url.path);
	if (fstat(f->fd, &st))
		return file_fail(s, "look at", err);
	f->size = st.st_size;
	if (f->rotate_seconds)
		f->period = st.st_mtime / f->rotate_seconds;
	return 0;
}

int file_begin(struct sink *s, int64_t day, struct err *err)
{
	struct file *f = s->state;

	f->day = day;
	if (open_path(s, O_CREAT, err))
		return -1;
	if (f->size && ftruncate(f->fd, f->size = last_newline(f->fd, f->size) + 1))
		return file_fail(s, "cut the torn last line of", err);
	if (file_sync_folder(s->url.path))
		return file_fail(s, "sync the folder of", err);
	return file_note_write(s, false, &s->mark, err);
}

/* Pipes and devices: no position beside, nothing to read back. */
static int open_special(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	if (file_numbered(f))
		return err_set(err, ERR_CONFIG, "%s is no file that could be rotated", s->url.path);
	return open_path(s, O_CREAT, err);
}

static int file_open(struct sink *s, struct err *err)
{
	const char *method = sink_text(s, "compress_closed");
	struct file *f = s->state;
	struct file_note note;
	struct stat st;

	f->fd = f->beside = -1;
	f->day = NO_DAY;
	file_rotate_settings(s);
	if (stat(s->url.path, &st) == 0 && !S_ISREG(st.st_mode))
		return open_special(s, err);
	if (file_note_open(s, &note, err) || file_rotate_recover(s, &note, err))
		return -1;
	if (!f->dated || f->day != NO_DAY)
		if (open_path(s, f->dated ? 0 : O_CREAT, err))
			return -1;
	if (file_sync_folder(s->url.path))
		return file_fail(s, "sync the folder of", err);
	if (resume(s, &note, err))
		return -1;
	if (method && !(f->compression = compression_start(s->url.path, method)))
		return err_set(err, ERR_RETRY, "cannot start a thread for %s", s->url.path);
	compression_wake(f->compression, f->day);
	return 0;
}

int file_sync(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	if (!f->unsynced)
		return 0;
	if (fdatasync(f->fd) && errno != EINVAL && errno != EROFS) /* pipes cannot be synced */
		return file_fail(s, "sync", err);
	if (!s->format->position && file_note_write(s, false, &s->mark, err))
		return -1;
	f->unsynced = 0;
	sink_took(s, f->written);
	return 0;
}

/* What is written beside must not be ahead of what is durable. */
static int file_mark(struct sink *s, const struct mark *m, struct err *err)
{
	if (file_sync(s, err))
		return -1;
	return file_note_write(s, false, m, err);
}

static int write_lines(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		       struct err *err)
{
	struct file *f = s->state;
	size_t at = b->messages[from].at, end = b->messages[to - 1].at + b->messages[to - 1].n + 1;

	while (at < end) {
		ssize_t n = write(f->fd, b->body.p + at, end - at);

		if (n < 0 && errno != EINTR)
			return file_fail(s, "write to", err);
		if (n <= 0)
			continue;
		if (!f->unsynced)
			f->oldest_ms = clock_ms();
		f->unsynced += (size_t)n;
		f->size += n;
		at += (size_t)n;
	}
	f->written = b->first + to - 1;
	f->last = b->messages[to - 1].position;
	return 0;
}

static int file_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	for (uint32_t next; from < to; from = next) {
		if (file_rotate(s, &b->messages[from], err))
			return -1;
		next = file_rotate_fit(s, b, from, to);
		if (write_lines(s, b, from, next, err))
			return -1;
	}
	return 0;
}

static int file_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct file *f = s->state;

	if (file_rotate_tick(s, &timeout_ms, err))
		return -1;
	if (f->unsynced) {
		int64_t left = f->oldest_ms + SYNC_EVERY_MS - clock_ms();

		if (left <= 0 || sink_pressed(s))
			return file_sync(s, err);
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

	compression_stop(f->compression);
	if (f->fd >= 0)
		close(f->fd);
	if (f->beside >= 0)
		close(f->beside);
}

static int file_check(const struct url *url, struct err *err)
{
	if (!url->path[0])
		return err_set(err, ERR_CONFIG, "it names no file, as file:PATH does");
	return file_rotate_check(url, err);
}

static const struct sink_param params[] = {
	{ "rotate_size", PARAM_TEXT, "BYTES", NULL, 1, 20,
	  "close the file before it is larger: 100M; K, M and G are powers of 1024" },
	{ "rotate_seconds", PARAM_INT, "N", NULL, 1, 31622400,
	  "close the file when the clock passes a multiple: 3600 is each full hour of UTC" },
	{ "compress_closed", PARAM_CHOICE, "gzip|zstd", NULL, 0, 0, "compress closed files" },
	{ 0 },
};

const struct sink_driver sink_file = {
	.name = "file",
	.one_order = true,
	.check = file_check,
	.schemes = (const char *const[]){ "file", NULL },
	.help = "file:PATH  appends one event a line; taken when it is on disk. A torn last line, "
		"as a "
		"crash leaves, is cut, and what the file holds already is not written again. "
		"{date} in the file's name is the day of the commit (UTC)",
	.params = params,
	.state_size = sizeof(struct file),
	.open = file_open,
	.send = file_send,
	.poll = file_poll,
	.flush = file_sync,
	.mark = file_mark,
	.close = file_close,
};
