/*
 * What the parts of the file driver share: the file that is written (file.c), the line beside it
 * (file_position.c), when a file ends and what becomes of it (file_rotate.c), names (file_names.c)
 * and the compression of closed files (file_compress.c).
 */
#ifndef PGHERALD_FILE_H
#define PGHERALD_FILE_H

#include "sink/sink.h"

#include <sys/types.h>

#define NO_DAY INT64_MIN

struct file {
	int fd;               /* of the file that is written; -1: none, {date} waits for an event */
	int beside;           /* PATH.position; -1: this is no file that could have one */
	struct position last; /* of the last message written */
	off_t size;
	int64_t day;       /* what {date} is in the name, since 1970; NO_DAY: not known, or none */
	int64_t period;    /* of rotate_seconds that the lines are of */
	uint32_t number;   /* of the last file that was closed */
	size_t unsynced;   /* bytes */
	int64_t oldest_ms; /* when the first of them was written */
	uint64_t written;  /* the last sequence number written */

	bool dated;          /* {date} is in the path */
	int64_t rotate_size; /* 0: no matter how large */
	int64_t rotate_seconds;
	struct compression *compression; /* of closed files, or NULL */
};

/* Closed files get a number, but where the date alone tells them apart. */
static inline bool file_numbered(const struct file *f)
{
	return f->rotate_size || f->rotate_seconds;
}

/* errno as an error; what may pass is tried again. */
int file_fail(const struct sink *s, const char *what, struct err *err);

/* Makes durable what is written. */
int file_sync(struct sink *s, struct err *err);

/* Opens the file of this day to go on behind what is in it. */
int file_begin(struct sink *s, int64_t day, struct err *err);

/* ---- the line beside the file ---- */

struct file_note {
	bool found;
	struct position last;
	off_t length;    /* of the file, up to the line of that event */
	int64_t day;     /* NO_DAY: none */
	uint32_t number; /* of the last file that was closed, or that is being closed */
	bool closing;    /* the file was about to get that number; it may have it already */
};

/* Opens and locks it, reads the note and the mark. */
int file_note_open(struct sink *s, struct file_note *note, struct err *err);

/* Writes down, durably, what is true of f now, and the mark. */
int file_note_write(struct sink *s, bool closing, const struct mark *m, struct err *err);

/* ---- rotation ---- */

int file_rotate_check(const struct url *url, struct err *err);
void file_rotate_settings(struct sink *s);

/* Ends what a process that died has begun, and completes the note by what is in the folder. */
int file_rotate_recover(struct sink *s, struct file_note *note, struct err *err);

/* Sees to it that the message has a file to go to. */
int file_rotate(struct sink *s, const struct message *m, struct err *err);

/* The first message from `from` on that has to wait for another file. */
uint32_t file_rotate_fit(const struct sink *s, const struct batch *b, uint32_t from, uint32_t to);

/* Closes the file when its time is over; otherwise sees to it that one looks in time again. */
int file_rotate_tick(struct sink *s, int *timeout_ms, struct err *err);

/* ---- names ---- */

/* The file of this day, with the number at its end unless that is 0; for free(). */
char *file_name(const char *path, int64_t day, uint32_t number);

struct file_kind {
	int64_t day;
	uint32_t number;    /* 0: none */
	const char *ending; /* behind that: "", ".gz" ... */
};

/* What file of ours has this name in the folder, if any. */
bool file_name_parse(const char *path, const char *name, struct file_kind *kind);

/* Offset of the last component. */
size_t file_folder_length(const char *path);

/* Calls `each` for every file of ours until it says false. */
void file_list(const char *path,
	       bool (*each)(void *user, const char *name, const struct file_kind *), void *user);

/* Makes names durable. */
int file_sync_folder(const char *path);

/* Like rename, but what has that name already stays: EEXIST. */
int file_rename(const char *from, const char *to);

/* ---- compression ---- */

/* Starts a thread that compresses closed files, those of an earlier process too. NULL: it
 * cannot be started. */
struct compression *compression_start(const char *path, const char *method);

/* Files were closed; of those without a number, the ones before `day` are. */
void compression_wake(struct compression *c, int64_t day);

/* Gives up what is being compressed: next time it is begun anew. */
void compression_stop(struct compression *c);

#endif
