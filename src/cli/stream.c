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
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is watched besides the stream. */
struct watch {
	int signals; /* signalfd */
	int files;   /* inotify on the configuration file's folder, or -1 */
	struct stat file;
};

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL); /* before threads start: they inherit it */
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The folder is watched, not the file: editors rename a new file into place, and a mounted
 * ConfigMap swaps a symbolic link beside it. */
static void watch_file(struct watch *w, const char *path)
{
	char *copy = mem_strdup(path);

	w->files = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->files >= 0)
		inotify_add_watch(w->files, dirname(copy),
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
		  st.st_size != w->file.st_size ||
		  st.st_mtim.tv_sec != w->file.st_mtim.tv_sec ||
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
	bool stopping;
};

/* Reads the settings again; a bad file is refused and the old settings stay in force. */
static void reload(struct streamer *s)
{
	struct settings *next = mem_alloc(sizeof(*next));
	struct err err = { 0 };

	s->reload_wanted = false;
	if (cli_settings(s->command, next, &err) || capture_reload(s->capture, next, &err)) {
		log_error("new settings are refused, the old ones stay in force: %s", err.msg);
		settings_release(next);
		free(next);
		return;
	}
	s->next = next;
}

/* Frees settings that are no longer in use. */
static void settle_reload(struct streamer *s)
{
	if (s->next && !capture_reloading(s->capture)) {
		settings_release(s->current);
		free(s->current);
		s->current = s->next;
		s->next = NULL;
		log_setup_names(s->current->log_format, s->current->log_level);
	}
	if (s->reload_wanted && !s->next)
		reload(s);
}

static void on_signals(struct streamer *s)
{
	struct signalfd_siginfo info;

	while (read(s->watch.signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP) {
			s->reload_wanted = true;
		} else if (s->stopping) {
			_exit(128 + (int)info.ssi_signo);
		} else {
			s->stopping = true;
			capture_stop(s->capture);
		}
	}
}

static void on_files(struct streamer *s)
{
	char buf[4096];

	while (read(s->watch.files, buf, sizeof(buf)) > 0)
		;
	if (file_changed(&s->watch, s->current->file))
		s->reload_wanted = true;
}

static int loop(struct streamer *s, struct err *err)
{
	struct pollfd fds[] = { { capture_fd(s->capture), POLLIN, 0 },
				{ s->watch.signals, POLLIN, 0 },
				{ s->watch.files, POLLIN, 0 } };
	int done = 0;

	while (done == 0) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			return err_set(err, ERR_FAIL, "poll: %s", strerror(errno));
		if (fds[1].revents)
			on_signals(s);
		if (fds[2].revents)
			on_files(s);
		settle_reload(s);
		done = capture_step(s->capture, 0, err);
	}
	return done < 0 ? -1 : 0;
}

int stream_run(const struct command *command, struct settings *settings)
{
	struct streamer s = { .command = command, .current = settings, .watch.files = -1 };
	struct err err = { 0 };
	int failed = -1;

	s.watch.signals = open_signals();
	if (settings->file)
		watch_file(&s.watch, settings->file);
	s.capture = capture_open(settings, NULL, &err);
	if (s.capture)
		failed = loop(&s, &err);
	capture_close(s.capture);
	if (failed)
		log_error("%s", err.msg);
	return failed ? err_exit_code(err.kind) : 0;
}
