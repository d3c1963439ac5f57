/* Names of the files of one output: PATH with the day for {date}, a number, an ending. */
#include "base/mem.h"
#include "base/time.h"
#include "sink/file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DATE "{date}"
#define DIGITS 9

char *file_name(const char *path, int64_t day, uint32_t number)
{
	const char *date = strstr(path, DATE);
	struct strbuf b = { 0 };

	if (date && day != NO_DAY) {
		strbuf_add(&b, path, (size_t)(date - path));
		time_print_date(&b, day);
		path = date + strlen(DATE);
	}
	strbuf_str(&b, str_c(path));
	if (number)
		strbuf_printf(&b, ".%0*" PRIu32, DIGITS, number);
	strbuf_cstr(&b);
	return b.p;
}

size_t file_folder_length(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Takes the text off the front of *name. */
static bool take(const char **name, struct str text)
{
	if (strncmp(*name, text.p, text.n) != 0)
		return false;
	*name += text.n;
	return true;
}

static bool take_day(const char **name, int64_t *day)
{
	if (strlen(*name) < 10 || !time_parse_date((struct str){ *name, 10 }, day))
		return false;
	*name += 10;
	return true;
}

static void take_number(const char **name, uint32_t *number)
{
	const char *digits = *name + 1;

	if (**name != '.' || strspn(digits, "0123456789") != DIGITS)
		return;
	*number = (uint32_t)strtoul(digits, NULL, 10);
	*name = digits + DIGITS;
}

bool file_name_parse(const char *path, const char *name, struct file_kind *kind)
{
	const char *base = path + file_folder_length(path), *date = strstr(base, DATE);
	struct str before = { base, date ? (size_t)(date - base) : 0 };

	*kind = (struct file_kind){ .day = NO_DAY };
	if (date && (!take(&name, before) || !take_day(&name, &kind->day)))
		return false;
	if (!take(&name, str_c(date ? date + strlen(DATE) : base)))
		return false;
	take_number(&name, &kind->number);
	kind->ending = name;
	return true;
}

/* "" is the folder one is in. */
static char *folder_of(const char *path)
{
	size_t n = file_folder_length(path);
	char *folder = n ? strndup(path, n) : strdup(".");

	if (!folder)
		mem_die();
	return folder;
}

void file_list(const char *path,
	       bool (*each)(void *user, const char *name, const struct file_kind *), void *user)
{
	char *folder = folder_of(path);
	DIR *dir = opendir(folder);
	struct dirent *entry;
	struct file_kind kind;
	bool more = true;

	free(folder);
	while (dir && more && (entry = readdir(dir)))
		if (file_name_parse(path, entry->d_name, &kind))
			more = each(user, entry->d_name, &kind);
	if (dir)
		closedir(dir);
}

int file_sync_folder(const char *path)
{
	char *folder = folder_of(path);
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), failed;

	free(folder);
	if (fd < 0)
		return errno == EACCES ? 0 : -1; /* may be used, but not be looked at */
	failed = fsync(fd) && errno != EINVAL;   /* some file systems do not know this */
	close(fd);
	return failed ? -1 : 0;
}

int file_rename(const char *from, const char *to)
{
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	if (access(to, F_OK) == 0) {
		errno = EEXIST;
		return -1;
	}
	return rename(from, to);
}
