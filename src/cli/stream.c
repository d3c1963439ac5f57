/* pgherald stream: events to outputs until the end or a signal. */
#include "base/log.h"
#include "cli/cli.h"
#include "core/capture.h"

#include <errno.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

/* For the signal handlers, which also interrupt what blocks (connecting, waiting for a slot). */
static struct capture *_Atomic running;
static volatile sig_atomic_t stops, hangups;

/* The first asks for an end in order, the second ends at once. */
static void on_stop(int signal)
{
	struct capture *c = running;

	if (stops++)
		_exit(128 + signal);
	if (c)
		capture_stop(c);
}

static void on_hangup(int signal)
{
	hangups = 1;
}

static void handle_signals(void)
{
	struct sigaction stop = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
	struct sigaction hangup = { .sa_handler = on_hangup, .sa_flags = SA_RESTART };

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGHUP, &hangup, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* The configuration file that is watched. */
struct watch {
	int fd; /* inotify on the file's folder, or -1 */
	struct stat file;
};

/* The folder is watched, not the file: editors rename a new file into place, and a mounted
 * ConfigMap swaps a symbolic link beside it. */
static void watch_file(struct watch *w, const char *path)
{
	char *copy = mem_strdup(path);

	w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->fd >= 0)
		inotify_add_watch(w->fd, dirname(copy),
				  IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO | IN_ATTRIB);
	free(copy);
	if (stat(path, &w->file))
		memset(&w->file, 0, sizeof(w->file));
}

/* Whether the file that the path leads to is another one or was written to. */
static bool file_changed(struct watch *w, const char *path)
{
	struct stat st;
	bool changed;

	if (stat(path, &st)) /* between two states: it will come */
		return false;
	changed = st.st_dev != w->file.st_dev || st.st_ino != w->file.st_ino ||
		  st.st_size != w->file.st_size || st.st_mtim.tv_sec != w->file.st_mtim.tv_sec ||
		  st.st_mtim.tv_nsec != w->file.st_mtim.tv_nsec;
	w->file = st;
	return changed;
}

struct streamer {
	struct capture *capture;
	struct watch watch;
	const struct command *command;
	struct settings *current;
	struct settings *next; /* given to capture_reload, or NULL */
	bool reload_wanted;
};

/* Reads the settings again; a bad file is refused and the old settings stay in force. */
static void reload(struct streamer *s)
{
	struct settings *next = mem_alloc(sizeof(*next));
	struct err err = { 0 };

	s->reload_wanted = false;
	if (cli_settings(s->command, next, &err) || capture_reload(s->capture, next, &err)) {
		log_error("new settings are refused, the old ones stay in force: %s", err.msg);
		cli_free(next);
		return;
	}
	s->next = next;
}

/* Frees settings that are no longer in use. */
static void settle_reload(struct streamer *s)
{
	if (s->next && !capture_reloading(s->capture)) {
		cli_free(s->current);
		s->current = s->next;
		s->next = NULL;
		log_setup_names(s->current->log_format, s->current->log_level);
	}
	if (s->reload_wanted && !s->next)
		reload(s);
}

static void on_files(struct streamer *s)
{
	char buf[4096];

	while (read(s->watch.fd, buf, sizeof(buf)) > 0)
		;
	if (s->current->file && file_changed(&s->watch, s->current->file))
		s->reload_wanted = true;
}

static int loop(struct streamer *s, struct err *err)
{
	struct pollfd fds[] = { { capture_fd(s->capture), POLLIN, 0 }, { s->watch.fd, POLLIN, 0 } };
	int done = 0;

	while (done == 0) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return err_set(err, ERR_FAIL, "poll: %s", strerror(errno));
		if (fds[1].revents)
			on_files(s);
		if (hangups) {
			hangups = 0;
			s->reload_wanted = true;
		}
		settle_reload(s);
		done = capture_step(s->capture, 0, err);
	}
	return done < 0 ? -1 : 0;
}

int stream_run(const struct command *command, struct settings *settings)
{
	struct streamer s = { .command = command, .current = settings, .watch.fd = -1 };
	struct err err = { 0 };
	int failed = -1;

	handle_signals();
	if (settings->file)
		watch_file(&s.watch, settings->file);
	s.capture = capture_open(settings, NULL, &err);
	running = s.capture;
	if (s.capture && stops)
		capture_stop(s.capture);
	if (s.capture)
		failed = loop(&s, &err);
	running = NULL;
	capture_close(s.capture);
	if (failed)
		log_error("%s", err.msg);
	cli_free(s.next);
	cli_free(s.current);
	if (s.watch.fd >= 0)
		close(s.watch.fd);
	return failed ? err_exit_code(err.kind) : 0;
}
