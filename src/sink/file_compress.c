/*
 * Compression of closed files, in a thread of its own: events need not wait for it.
 *
 * What is to be done stands in the folder: closed files without an ending. So nothing is forgotten,
 * whenever a process ends. NAME.gz.tmp is written, synced and renamed to NAME.gz; only then NAME is
 * removed. Where both are there the first is whole.
 *
 * What fails (a full disk) is tried again with the next file or after a minute; the file stays as
 * it is until then.
 */
#include "base/log.h"
#include "base/mem.h"
#include "sink/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define CHUNK 65536
#define AGAIN_MS 60000
#define ZSTD_LEVEL 3

struct compression {
	char *path;
	bool zstd;
	int wake; /* eventfd */
	_Atomic bool stopping;
	_Atomic int64_t day;
	pthread_t thread;
};

static ssize_t read_chunk(struct compression *c, int fd, void *chunk)
{
	ssize_t n;

	if (c->stopping) {
		errno = ECANCELED;
		return -1;
	}
	while ((n = read(fd, chunk, CHUNK)) < 0 && errno == EINTR)
		;
	return n;
}

static int write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t w = write(fd, p, n);

		if (w < 0 && errno != EINTR)
			return -1;
		if (w > 0) {
			p += w;
			n -= (size_t)w;
		}
	}
	return 0;
}

static int compress_gzip(struct compression *c, int from, int to)
{
	int copy = dup(to);
	gzFile gz = copy >= 0 ? gzdopen(copy, "wb") : NULL;
	char chunk[CHUNK];
	ssize_t n = -1;

	if (!gz) {
		if (copy >= 0)
			close(copy);
		return -1;
	}
	while ((n = read_chunk(c, from, chunk)) > 0)
		if (gzwrite(gz, chunk, (unsigned)n) != n) {
			n = -1;
			break;
		}
	return (gzclose(gz) != Z_OK || n < 0) ? -1 : 0;
}

static int zstd_put(ZSTD_CCtx *z, int to, const char *chunk, size_t n, bool end)
{
	ZSTD_inBuffer in = { chunk, n, 0 };
	char room[CHUNK];
	size_t left;

	do {
		ZSTD_outBuffer out = { room, sizeof(room), 0 };

		left = ZSTD_compressStream2(z, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left) || write_all(to, room, out.pos))
			return -1;
	} while (end ? left > 0 : in.pos < in.size);
	return 0;
}

static int compress_zstd(struct compression *c, int from, int to)
{
	ZSTD_CCtx *z = ZSTD_createCCtx();
	char chunk[CHUNK];
	int failed = 0;
	ssize_t n = 0;

	if (!z)
		mem_die();
	ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, ZSTD_LEVEL);
	ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
	while (!failed && (n = read_chunk(c, from, chunk)) > 0)
		failed = zstd_put(z, to, chunk, (size_t)n, false);
	failed = failed || n < 0 || zstd_put(z, to, NULL, 0, true);
	ZSTD_freeCCtx(z);
	return failed ? -1 : 0;
}

/* Everything of `plain`, compressed and durable, in `tmp`. */
static int make(struct compression *c, const char *plain, const char *tmp)
{
	int from = open(plain, O_RDONLY | O_CLOEXEC), to = -1, failed = -1;
	struct stat st;

	if (from >= 0 && fstat(from, &st) == 0)
		to = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to >= 0)
		failed = (c->zstd ? compress_zstd : compress_gzip)(c, from, to) ||
			 fchmod(to, st.st_mode & 0777) || fsync(to);
	if (to >= 0)
		close(to);
	if (from >= 0)
		close(from);
	return failed ? -1 : 0;
}

static bool same(const char *a, const char *b)
{
	FILE *f = fopen(a, "re"), *g = fopen(b, "re");
	int x = 0, y = f && g ? 0 : 1;

	while (x == y && x != EOF) {
		x = getc_unlocked(f);
		y = getc_unlocked(g);
	}
	if (f)
		fclose(f);
	if (g)
		fclose(g);
	return x == y;
}

/* A process that ended before it removed the plain file has left both; a compressed file that has
 * anything else in it is somebody's, and stays. */
static int put_in_place(const char *tmp, const char *final)
{
	if (file_rename(tmp, final) == 0)
		return 0;
	return errno == EEXIST && same(tmp, final) ? 0 : -1;
}

static int compress_file(struct compression *c, const char *plain)
{
	char *final = NULL, *tmp = NULL;
	int failed;

	if (asprintf(&final, "%s.%s", plain, c->zstd ? "zst" : "gz") < 0 ||
	    asprintf(&tmp, "%s.tmp", final) < 0)
		mem_die();
	failed = make(c, plain, tmp) || put_in_place(tmp, final) || file_sync_folder(final);
	if (!failed)
		unlink(plain);
	else if (!c->stopping)
		log_debug("cannot compress %s: %s", plain, strerror(errno));
	unlink(tmp);
	free(tmp);
	free(final);
	return failed;
}

/* The names first: what is in a folder changes while it is read. */
struct names {
	struct compression *c;
	char **v;
	size_t n;
};

static bool add_name(void *user, const char *name, const struct file_kind *kind)
{
	struct names *names = user;
	struct compression *c = names->c;
	size_t n = file_folder_length(c->path);
	bool closed = kind->number || (kind->day != NO_DAY && kind->day < c->day);

	if (!closed || *kind->ending)
		return true;
	names->v = mem_realloc(names->v, (names->n + 1) * sizeof(*names->v));
	if (asprintf(&names->v[names->n++], "%.*s%s", (int)n, c->path, name) < 0)
		mem_die();
	return true;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Returns whether all could be compressed. */
static bool compress_all(struct compression *c)
{
	struct names names = { .c = c };
	bool done = true;

	file_list(c->path, add_name, &names);
	if (names.n)
		qsort(names.v, names.n, sizeof(*names.v), by_name);
	for (size_t i = 0; i < names.n; i++) {
		if (!c->stopping && compress_file(c, names.v[i]))
			done = false;
		free(names.v[i]);
	}
	free(names.v);
	return done;
}

static void *run(void *arg)
{
	struct compression *c = arg;
	struct pollfd pfd = { c->wake, POLLIN, 0 };
	uint64_t n;

	while (!c->stopping) {
		poll(&pfd, 1, compress_all(c) ? -1 : AGAIN_MS);
		if (read(c->wake, &n, sizeof(n)) < 0) {
			/* the time was over */
		}
	}
	return NULL;
}

struct compression *compression_start(const char *path, const char *method)
{
	struct compression *c = mem_alloc(sizeof(*c));

	c->path = mem_strdup(path);
	c->zstd = strcmp(method, "zstd") == 0;
	c->day = NO_DAY;
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (pthread_create(&c->thread, NULL, run, c) == 0)
		return c;
	close(c->wake);
	free(c->path);
	free(c);
	return NULL;
}

void compression_wake(struct compression *c, int64_t day)
{
	if (!c)
		return;
	c->day = day;
	eventfd_write(c->wake, 1);
}

void compression_stop(struct compression *c)
{
	if (!c)
		return;
	c->stopping = true;
	eventfd_write(c->wake, 1);
	pthread_join(c->thread, NULL);
	close(c->wake);
	free(c->path);
	free(c);
}
