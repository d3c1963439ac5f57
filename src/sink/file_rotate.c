/*
 * When a file ends, and what becomes of it.
 *
 * With rotate_size or rotate_seconds the file is renamed to PATH.NUMBER, and numbers only grow.
 * What a crash at any moment leaves tells how to go on:
 *
 *     1. the file is synced                          goes on
 *     2. the note says "closing", its length, NUMBER the file is empty or missing: as after 3;
 *                                                    otherwise goes on
 *     3. it is renamed, the folder is synced
 *     4. the note says "open", length 0              the next file is empty; the note knows the
 *     5. the next file is made                       last event
 *
 * With {date} alone the next day's file is made, and then the note says so.
 *
 * The day is that of the commit. It never goes back: a commit whose time is before that of an
 * earlier one is written where that one is, so the files, in order, are the events in order.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/time.h"
#include "sink/file.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATE "{date}"
#define LAST_DAY 2932896 /* of the year 9999 */

/* Bytes, or 0 for what is no size. */
static int64_t parse_size(const char *text)
{
	char *end;
	long long n = isdigit((unsigned char)*text) ? strtoll(text, &end, 10) : 0;
	const char *unit = n ? strchr("KMG", *end) : NULL;
	int shift = unit && *end ? (int)(unit - "KMG" + 1) * 10 : 0;

	if (!unit || (*end && end[1]) || n > INT64_MAX >> shift)
		return 0;
	return n << shift;
}

int file_rotate_check(const struct url *url, struct err *err)
{
	const char *size = url_param(url, "rotate_size"), *date = strstr(url->path, DATE);
	bool ends = size || url_param(url, "rotate_seconds") || date;

	if (size && !parse_size(size))
		return err_set(err, ERR_CONFIG,
			       "rotate_size: \"%.50s\" is not a number of bytes such as 500K, 100M "
			       "or 1G",
			       size);
	if (date &&
	    ((size_t)(date - url->path) < file_folder_length(url->path) || strstr(date + 1, DATE)))
		return err_set(err, ERR_CONFIG, DATE " can stand once, in the file's name");
	if (url_param(url, "compress_closed") && !ends)
		return err_set(err, ERR_CONFIG,
			       "compress_closed: no file is ever closed without rotate_size, "
			       "rotate_seconds or " DATE);
	return 0;
}

void file_rotate_settings(struct sink *s)
{
	struct file *f = s->state;
	const char *size = sink_text(s, "rotate_size");

	f->dated = strstr(s->url.path, DATE) != NULL;
	f->rotate_size = size ? parse_size(size) : 0;
	f->rotate_seconds = sink_int(s, "rotate_seconds");
}

struct around {
	const char *path;
	bool dated;
	struct file_note *note;
	int64_t newest;
};

/* Numbers go on behind all that there are. What was compressed when a process died is removed. */
static bool look(void *user, const char *name, const struct file_kind *kind)
{
	size_t n = strlen(kind->ending);
	struct around *a = user;
	char *path;

	if (kind->number > a->note->number)
		a->note->number = kind->number;
	if (!kind->number && !n && kind->day > a->newest)
		a->newest = kind->day;
	if ((kind->number || a->dated) && n > 4 && strcmp(kind->ending + n - 4, ".tmp") == 0) {
		if (asprintf(&path, "%.*s%s", (int)file_folder_length(a->path), a->path, name) < 0)
			mem_die();
		unlink(path);
		free(path);
	}
	return true;
}

/* The folder is synced before the note says "open": the note must not be durable without the name. */
static int settle(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	f->size = 0;
	if (file_sync_folder(s->url.path))
		return file_fail(s, "sync the folder of", err);
	return file_note_write(s, false, &s->mark, err);
}

/* The note says "closing": either the file is all there still, or it has its new name. */
static int finish_closing(struct sink *s, struct file_note *note, struct err *err)
{
	struct file *f = s->state;
	char *path = file_name(s->url.path, note->day, 0);
	struct stat st = { 0 };
	int failed = stat(path, &st) && errno != ENOENT;

	free(path);
	if (failed)
		return file_fail(s, "look at", err);
	if (st.st_size) {
		f->number = --note->number;
		return 0;
	}
	note->length = 0;
	return settle(s, err);
}

int file_rotate_recover(struct sink *s, struct file_note *note, struct err *err)
{
	struct file *f = s->state;
	struct around a = { s->url.path, f->dated, note, NO_DAY };

	f->last = note->last;
	f->day = note->day;
	f->number = note->number;
	if (note->closing && finish_closing(s, note, err))
		return -1;
	if (f->dated || file_numbered(f))
		file_list(s->url.path, look, &a);
	f->number = note->number;
	if (f->dated && f->day == NO_DAY)
		f->day = note->day = a.newest;
	return 0;
}

/* Gives the file its number. One that was taken away by somebody needs none. */
static int rename_current(struct sink *s, struct err *err)
{
	struct file *f = s->state;
	char *from = file_name(s->url.path, f->day, 0), *to = NULL;
	int failed;

	do {
		free(to);
		to = file_name(s->url.path, f->day, f->number);
		failed = file_rename(from, to) && errno != ENOENT;
	} while (failed && errno == EEXIST && f->number++ < UINT32_MAX);
	if (failed)
		file_fail(s, "rename", err);
	free(from);
	free(to);
	return failed ? -1 : 0;
}

static int give_number(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	f->number++;
	if (file_note_write(s, true, &s->mark, err) || rename_current(s, err))
		return -1;
	return settle(s, err);
}

static int close_current(struct sink *s, struct err *err)
{
	struct file *f = s->state;

	if (file_sync(s, err))
		return -1;
	if (f->size && file_numbered(f) && give_number(s, err))
		return -1;
	close(f->fd);
	f->fd = -1;
	return 0;
}

static int64_t bytes_of(const struct message *m)
{
	return (int64_t)m->n + 1;
}

static int64_t day_of(const struct file *f, const struct message *m)
{
	int64_t day = m->time / TIME_DAY;

	if (!f->dated || day < 0)
		return f->day;
	if (day > LAST_DAY)
		day = LAST_DAY;
	return day > f->day ? day : f->day;
}

static int64_t period_now(const struct file *f)
{
	return f->rotate_seconds ? clock_wall_us() / TIME_SECOND / f->rotate_seconds : 0;
}

/* Whether an event of so many bytes cannot be added to a file of this size. */
static bool is_full(const struct file *f, off_t size, int64_t bytes)
{
	return size && f->rotate_size && size + bytes > f->rotate_size;
}

int file_rotate(struct sink *s, const struct message *m, struct err *err)
{
	struct file *f = s->state;
	int64_t day = day_of(f, m);
	bool over = f->size && f->period != period_now(f);

	if (f->fd >= 0 && (day != f->day || over || is_full(f, f->size, bytes_of(m))) &&
	    close_current(s, err))
		return -1;
	if (f->fd < 0) {
		if (file_begin(s, day, err))
			return -1;
		compression_wake(f->compression, day);
	}
	if (!f->size)
		f->period = period_now(f);
	return 0;
}

uint32_t file_rotate_fit(const struct sink *s, const struct batch *b, uint32_t from, uint32_t to)
{
	const struct file *f = s->state;
	off_t size = f->size;
	uint32_t i = from;

	if (!f->rotate_size && !f->dated)
		return to;
	do
		size += bytes_of(&b->messages[i++]);
	while (i < to && !is_full(f, size, bytes_of(&b->messages[i])) &&
	       day_of(f, &b->messages[i]) == f->day);
	return i;
}

int file_rotate_tick(struct sink *s, int *timeout_ms, struct err *err)
{
	struct file *f = s->state;
	int64_t period_us = f->rotate_seconds * TIME_SECOND, left;

	if (!f->rotate_seconds || !f->size)
		return 0;
	if (f->period != period_now(f)) {
		if (close_current(s, err) || (!f->dated && file_begin(s, f->day, err)))
			return -1;
		compression_wake(f->compression, f->day);
		return 0;
	}
	left = (period_us - clock_wall_us() % period_us) / 1000 + 1;
	if (*timeout_ms < 0 || *timeout_ms > left)
		*timeout_ms = (int)left;
	return 0;
}
