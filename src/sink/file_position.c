/*
 * PATH.position: one line, always of the same length, which is written in place.
 *
 *     POSITION LENGTH LSN SYSTEM TIMELINE NUMBER DATE STATE
 *
 * POSITION and LENGTH: up to here the file is whole, and this is the last event in it. LSN, SYSTEM
 * and TIMELINE are the mark. NUMBER is that of the last closed file, DATE the day in the name of
 * the file that is written (0000-00-00: none), STATE "open" or "closing".
 */
#include "base/mem.h"
#include "base/time.h"
#include "sink/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#define LEN (POSITION_LEN + 1 + 20 + 1 + 16 + 1 + 20 + 1 + 10 + 1 + 10 + 1 + 10 + 1 + 7 + 1)

static void print_day(char out[11], int64_t day)
{
	struct time_date d = day == NO_DAY ? (struct time_date){ 0 } : time_civil(day);

	snprintf(out, 11, "%04u-%02u-%02u", (unsigned)d.year % 10000, (unsigned)d.month % 100,
		 (unsigned)d.day % 100);
}

static void parse_line(struct sink *s, char *line, struct file_note *note)
{
	char *at = line + POSITION_LEN;

	if (!position_parse((struct str){ line, POSITION_LEN }, &note->last))
		return;
	note->found = true;
	note->length = (off_t)strtoull(at, &at, 10);
	s->mark.lsn = strtoull(at, &at, 16);
	s->mark.system_id = strtoull(at, &at, 10);
	s->mark.timeline = (uint32_t)strtoul(at, &at, 10);
	note->number = (uint32_t)strtoul(at, &at, 10);
	if (*at == ' ' && !time_parse_date((struct str){ at + 1, 10 }, &note->day))
		note->day = NO_DAY;
	note->closing = strstr(at, "closing") != NULL;
}

int file_note_open(struct sink *s, struct file_note *note, struct err *err)
{
	struct file *f = s->state;
	char *path = NULL, line[LEN + 1] = "";

	*note = (struct file_note){ .day = NO_DAY };
	s->mark = (struct mark){ 0 };
	if (asprintf(&path, "%s.position", s->url.path) < 0)
		mem_die();
	f->beside = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	free(path);
	if (f->beside < 0)
		return file_fail(s, "open the position beside", err);
	if (flock(f->beside, LOCK_EX | LOCK_NB))
		return err_set(err, ERR_RETRY, "%s is being written by another process", s->url.path);
	if (pread(f->beside, line, LEN, 0) < 0)
		return file_fail(s, "read the position beside", err);
	parse_line(s, line, note);
	return 0;
}

int file_note_write(struct sink *s, bool closing, const struct mark *m, struct err *err)
{
	struct file *f = s->state;
	char line[LEN + 1], day[11];

	if (f->beside < 0)
		return 0;
	print_day(day, f->day);
	position_print(f->last, line);
	snprintf(line + POSITION_LEN, sizeof(line) - POSITION_LEN,
		 " %020jd %016" PRIX64 " %020" PRIu64 " %010" PRIu32 " %010" PRIu32 " %s %-7s\n",
		 (intmax_t)f->size, m->lsn, m->system_id, m->timeline, f->number, day,
		 closing ? "closing" : "open");
	if (pwrite(f->beside, line, LEN, 0) != LEN || fdatasync(f->beside))
		return file_fail(s, "write the position beside", err);
	s->mark = *m;
	return 0;
}
