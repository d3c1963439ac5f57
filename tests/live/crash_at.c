/*
 * Preloaded into a program: it dies, as by kill -9, right before its CRASH_AT-th call that changes
 * a regular file or a folder. So a test can go through all the moments of a rotation.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static _Atomic int calls;

static void count(void)
{
	const char *at = getenv("CRASH_AT");

	if (at && atomic_fetch_add(&calls, 1) + 1 == atoi(at))
		kill(getpid(), SIGKILL);
}

static void count_fd(int fd)
{
	struct stat st;

	if (fd > 2 && fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
		count();
}

#define NEXT(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *p, size_t n)
{
	count_fd(fd);
	return NEXT(write)(fd, p, n);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	count_fd(fd);
	return NEXT(pwrite64)(fd, p, n, at);
}

int fsync(int fd)
{
	count_fd(fd);
	return NEXT(fsync)(fd);
}

int fdatasync(int fd)
{
	count_fd(fd);
	return NEXT(fdatasync)(fd);
}

int ftruncate64(int fd, off64_t n)
{
	count_fd(fd);
	return NEXT(ftruncate64)(fd, n);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	count();
	return NEXT(renameat2)(from_dir, from, to_dir, to, flags);
}

int unlink(const char *path)
{
	count();
	return NEXT(unlink)(path);
}
