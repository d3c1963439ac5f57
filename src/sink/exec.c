/*
 * exec:COMMAND hands messages to a program, one a line on its standard input. What goes to the
 * program's standard error, goes to ours.
 *
 * ack=line: the program runs as long as we do. A message is taken when the program has written the
 * line's id on its standard output; ids may come in any order. A line "ID refused WHY" refuses that
 * message. When the program ends it is started again, and gets again what was not taken.
 *
 * ack=exit: the program is started for at most lines=N messages, whose end it sees, and they are
 * taken when it ends with 0. With 65 (EX_DATAERR) it refuses: several are handed over in halves, so
 * that only the message is refused that is at fault. With another code they are handed over again.
 *
 * After a crash or the program's death messages may come again, with the same id.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "encode/encode.h"
#include "sink/sink.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MOST 4096 /* bytes of a line that the program writes */
#define END_MS 300       /* for the program to end by itself, and again once it was asked to */
#define EX_DATAERR 65

struct range {
	const struct batch *b;
	uint32_t from, to; /* [from, to) */
};

struct exec {
	bool exits; /* ack=exit */
	uint32_t lines, most;
	pid_t pid; /* also its process group; 0: none runs */
	int pidfd, in, out;
	struct range *ranges; /* sent and not all written (ack=line) or taken (ack=exit) */
	size_t n, cap;
	size_t written;  /* bytes of the first range (ack=line), of the run (ack=exit) */
	uint64_t run_to; /* ack=exit: the last number of the run */
	struct strbuf answer;
	/* ack=line: the messages that were written, in order, to be found by their position. */
	struct written {
		struct position position;
		uint64_t seq;
	} * ids;
	size_t nids, ids_cap, ids_done;
};

/* ---- the program ---- */

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Between fork and exec: only what is safe there. */
static void be_program(const char *command, int in, int out)
{
	sigset_t none;

	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	setpgid(0, 0);
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

static int start(struct sink *s, struct err *err)
{
	struct exec *e = s->state;
	int in[2] = { -1, -1 }, out[2] = { -1, -1 };

	if (pipe2(in, O_CLOEXEC) == 0 && (e->exits || pipe2(out, O_CLOEXEC) == 0))
		e->pid = fork();
	else
		e->pid = -1;
	if (e->pid == 0)
		be_program(s->url.path, in[0], e->exits ? STDERR_FILENO : out[1]);
	close_fd(&in[0]);
	close_fd(&out[1]);
	e->in = in[1];
	e->out = out[0];
	if (e->pid < 0) {
		e->pid = 0;
		return err_set(err, ERR_RETRY, "cannot start the program: %s", strerror(errno));
	}
	setpgid(e->pid, e->pid); /* whoever comes first */
	e->pidfd = pidfd_open(e->pid, 0);
	fcntl(e->in, F_SETFL, O_NONBLOCK);
	if (e->out >= 0)
		fcntl(e->out, F_SETFL, O_NONBLOCK);
	if (e->pidfd < 0)
		return err_set(err, ERR_FAIL, "pidfd_open: %s; Linux 5.3 is needed", strerror(errno));
	return 0;
}

static bool ends_within(const struct exec *e, int ms)
{
	struct pollfd pfd = { e->pidfd, POLLIN, 0 };

	return e->pidfd >= 0 && poll(&pfd, 1, ms) > 0;
}

/* Its end of input tells it to end; then the whole group is asked, then it is made to. */
static void stop(struct exec *e)
{
	close_fd(&e->in);
	if (e->pid) {
		if (!ends_within(e, END_MS)) {
			kill(-e->pid, SIGTERM);
			ends_within(e, END_MS);
		}
		kill(-e->pid, SIGKILL);
		waitpid(e->pid, NULL, 0);
	}
	e->pid = 0;
	close_fd(&e->pidfd);
	close_fd(&e->out);
}

/* Reaps the program that has ended. */
static int reap(struct exec *e)
{
	int status = 0;

	kill(-e->pid, SIGKILL); /* what it left behind in its group, while that is its name */
	waitpid(e->pid, &status, 0);
	e->pid = 0;
	close_fd(&e->in);
	close_fd(&e->pidfd);
	return status;
}

static int ended(int status, struct err *err)
{
	int code = WEXITSTATUS(status);

	if (WIFSIGNALED(status))
		return err_set(err, ERR_RETRY, "the program was ended by signal %d",
			       WTERMSIG(status));
	if (code == 126 || code == 127)
		return err_set(
			err, ERR_CONFIG,
			"the program cannot be run (exit code %d); see above what the shell says",
			code);
	return err_set(err, ERR_RETRY, "the program ended with exit code %d", code);
}

static int exec_open(struct sink *s, struct err *err)
{
	struct exec *e = s->state;

	e->in = e->out = e->pidfd = -1;
	e->exits = strcmp(sink_text(s, "ack"), "exit") == 0;
	e->lines = e->most = (uint32_t)sink_int(s, "lines");
	if (!e->exits && !s->format->position)
		return err_set(err, ERR_CONFIG,
			       "lines in format %s carry no id that could be written back; use "
			       "ack=exit or another format",
			       s->format->name);
	return e->exits ? 0 : start(s, err);
}

/* ---- ranges ---- */

static int exec_send(struct sink *s, const struct batch *b, uint32_t from, uint32_t to,
		     struct err *err)
{
	struct exec *e = s->state;

	if (e->n == e->cap) {
		e->cap = e->cap ? e->cap * 2 : 32;
		e->ranges = mem_realloc(e->ranges, e->cap * sizeof(*e->ranges));
	}
	e->ranges[e->n++] = (struct range){ b, from, to };
	return 0;
}

static void drop_first(struct exec *e)
{
	memmove(e->ranges, e->ranges + 1, --e->n * sizeof(*e->ranges));
}

/* Lines of a range, with their newlines; they stand in one piece. */
static struct str range_bytes(const struct range *r)
{
	const struct message *first = &r->b->messages[r->from], *last = &r->b->messages[r->to - 1];

	return (struct str){ r->b->body.p + first->at, last->at + last->n + 1 - first->at };
}

/* Writes as much as the pipe takes; 0 also when the program does not read any more. */
static size_t write_some(int fd, struct str bytes)
{
	size_t done = 0;

	while (done < bytes.n) {
		ssize_t n = write(fd, bytes.p + done, bytes.n - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return done;
}

/* ---- ack=line ---- */

static void remember(struct exec *e, const struct range *r)
{
	size_t n = r->to - r->from;

	if (e->ids_done > e->nids / 2) {
		e->nids -= e->ids_done;
		memmove(e->ids, e->ids + e->ids_done, e->nids * sizeof(*e->ids));
		e->ids_done = 0;
	}
	if (e->nids + n > e->ids_cap) {
		e->ids_cap = (e->nids + n) * 2;
		e->ids = mem_realloc(e->ids, e->ids_cap * sizeof(*e->ids));
	}
	for (uint32_t i = r->from; i < r->to; i++)
		e->ids[e->nids++] = (struct written){ r->b->messages[i].position, r->b->first + i };
}

static void write_lines(struct exec *e)
{
	while (e->n) {
		struct range *r = &e->ranges[0];
		struct str bytes = range_bytes(r);

		if (e->written == 0)
			remember(e, r);
		e->written += write_some(e->in, str_from(bytes, e->written));
		if (e->written < bytes.n)
			return;
		e->written = 0;
		drop_first(e);
	}
}

/* The message with this id that waits for its answer; of two with one id (dead letters) the first.
 * 0: none does. */
static uint64_t find_id(struct exec *e, struct position p)
{
	for (size_t i = e->ids_done; i < e->nids; i++)
		if (e->ids[i].seq && position_cmp(e->ids[i].position, p) == 0) {
			uint64_t seq = e->ids[i].seq;

			e->ids[i].seq = 0;
			while (e->ids_done < e->nids && e->ids[e->ids_done].seq == 0)
				e->ids_done++;
			return seq;
		}
	return 0;
}

static int take_answer(struct sink *s, struct str line, struct err *err)
{
	struct exec *e = s->state;
	struct str id = { line.p, line.n < POSITION_LEN ? line.n : POSITION_LEN };
	struct str rest = str_from(line, id.n);
	struct position p;
	uint64_t seq;
	char why[ANSWER_MOST];

	if (!position_parse(id, &p) || (rest.n && !str_starts(rest, STR(" refused"))))
		return err_set(
			err, ERR_CONFIG,
			"the program wrote \"%.*s\" on its standard output, which is no id of an "
			"event; other words belong on its standard error",
			(int)(line.n < 100 ? line.n : 100), line.p);
	seq = find_id(e, p);
	if (!seq)
		return 0; /* a second time */
	if (!rest.n) {
		sink_ack(s, seq);
		return 0;
	}
	rest = str_from(rest, rest.n > 9 ? 9 : rest.n);
	snprintf(why, sizeof(why), "%.*s", rest.n ? (int)rest.n : 18,
		 rest.n ? rest.p : "the program says so");
	sink_refuse(s, seq, why);
	return 0;
}

static int take_answers(struct sink *s, struct err *err)
{
	struct exec *e = s->state;
	size_t at = 0;

	for (;;) {
		struct str rest = strbuf_since(&e->answer, at);
		const char *nl = rest.n ? memchr(rest.p, '\n', rest.n) : NULL;
		struct str line = { rest.p, nl ? (size_t)(nl - rest.p) : 0 };

		if (!nl)
			break;
		at += line.n + 1;
		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		if (line.n && take_answer(s, line, err))
			return -1;
	}
	e->answer.n -= at;
	memmove(e->answer.p, e->answer.p + at, e->answer.n);
	if (e->answer.n > ANSWER_MOST)
		return err_set(err, ERR_CONFIG, "the program writes lines that are no ids");
	return 0;
}

/* Reads what is there. */
static int read_answers(struct sink *s, struct err *err)
{
	struct exec *e = s->state;
	ssize_t n;

	while ((n = read(e->out, strbuf_room(&e->answer, 65536), 65536)) > 0) {
		e->answer.n += (size_t)n;
		if (take_answers(s, err))
			return -1;
	}
	return 0;
}

/* The program has closed an end of its; that is its own end mostly. */
static int hung_up(struct exec *e, struct err *err)
{
	if (ends_within(e, END_MS))
		return ended(reap(e), err);
	return err_set(err, ERR_RETRY, "the program has closed its standard input or output");
}

static int poll_lines(struct sink *s, int timeout_ms, struct err *err)
{
	struct exec *e = s->state;
	struct pollfd fds[] = { { s->wake, POLLIN, 0 },
				{ e->out, POLLIN, 0 },
				{ e->pidfd, POLLIN, 0 },
				{ e->in, POLLOUT, 0 } };

	write_lines(e);
	poll(fds, e->n ? 4 : 3, timeout_ms);
	if (read_answers(s, err))
		return -1;
	if ((fds[1].revents | fds[3].revents) & (POLLHUP | POLLERR))
		return hung_up(e, err);
	if (fds[2].revents & POLLIN)
		return ended(reap(e), err);
	write_lines(e);
	return 0;
}

/* ---- ack=exit ---- */

/* The number of the last message of a run that begins with the first range. */
static uint64_t run_end(const struct exec *e)
{
	const struct range *first = &e->ranges[0], *last = &e->ranges[e->n - 1];
	uint64_t begin = first->b->first + first->from, end = last->b->first + last->to - 1;

	return end - begin < e->most ? end : begin + e->most - 1;
}

/* Feeds the run; closes its input behind the last line. */
static void feed(struct exec *e)
{
	size_t before = 0;

	for (size_t i = 0; i < e->n && e->in >= 0; i++) {
		struct range r = e->ranges[i];
		struct str bytes;

		if (r.b->first + r.from > e->run_to)
			break;
		if (r.b->first + r.to - 1 > e->run_to)
			r.to = (uint32_t)(e->run_to - r.b->first + 1);
		bytes = range_bytes(&r);
		if (e->written < before + bytes.n) {
			e->written += write_some(e->in, str_from(bytes, e->written - before));
			if (e->written < before + bytes.n)
				return;
		}
		before += bytes.n;
	}
	close_fd(&e->in);
}

/* Drops the ranges up to the run's end. */
static void finish_run(struct exec *e)
{
	while (e->n && e->ranges[0].b->first + e->ranges[0].from <= e->run_to) {
		struct range *r = &e->ranges[0];

		if (r->b->first + r->to - 1 > e->run_to) {
			r->from = (uint32_t)(e->run_to - r->b->first + 1);
			return;
		}
		drop_first(e);
	}
}

static int run_ended(struct sink *s, struct err *err)
{
	struct exec *e = s->state;
	const struct range *r = &e->ranges[0];
	uint64_t begin = r->b->first + r->from;
	int status = reap(e);
	bool refused = WIFEXITED(status) && WEXITSTATUS(status) == EX_DATAERR;

	if (refused && e->run_to > begin) {
		e->most = (uint32_t)(e->run_to - begin + 1) / 2;
		return 0;
	}
	if (refused)
		sink_refuse(s, begin, "the program ended with exit code 65");
	else if (status == 0)
		sink_took(s, e->run_to);
	else
		return ended(status, err);
	e->most = e->most * 2 < e->lines ? e->most * 2 : e->lines;
	finish_run(e);
	return 0;
}

static int poll_exit(struct sink *s, int timeout_ms, struct err *err)
{
	struct exec *e = s->state;
	struct pollfd fds[] = { { s->wake, POLLIN, 0 }, { -1, POLLIN, 0 }, { -1, POLLOUT, 0 } };

	if (!e->pid && e->n && !sink_ending(s)) {
		e->run_to = run_end(e);
		e->written = 0;
		if (start(s, err))
			return -1;
	}
	if (e->pid)
		feed(e);
	fds[1].fd = e->pid ? e->pidfd : -1;
	fds[2].fd = e->in;
	poll(fds, 3, timeout_ms);
	if (fds[1].revents & POLLIN)
		return run_ended(s, err);
	if (fds[2].revents & POLLERR) /* it reads no more; how it ends is what counts */
		close_fd(&e->in);
	if (e->pid)
		feed(e);
	return 0;
}

static int exec_poll(struct sink *s, int timeout_ms, struct err *err)
{
	struct exec *e = s->state;

	return e->exits ? poll_exit(s, timeout_ms, err) : poll_lines(s, timeout_ms, err);
}

static void exec_close(struct sink *s)
{
	struct exec *e = s->state;

	stop(e);
	free(e->ranges);
	free(e->ids);
	strbuf_release(&e->answer);
}

static int exec_check(const struct url *url, struct err *err)
{
	return url->path[0] && !url->nhosts
		       ? 0
		       : err_set(err, ERR_CONFIG, "it names no command, as exec:COMMAND does");
}

static const struct sink_param params[] = {
	{ "ack", PARAM_CHOICE, "line|exit", "line", 0, 0,
	  "taken when the program writes the line's id back, or when it ends with 0" },
	{ "lines", PARAM_INT, "N", "1000", 1, 50000, "ack=exit: at most so many lines for one run" },
	{ 0 },
};

const struct sink_driver sink_exec = {
	.name = "exec",
	.schemes = (const char *const[]){ "exec", NULL },
	.help = "exec:COMMAND  lines for a program; taken when it writes their ids back",
	.params = params,
	.state_size = sizeof(struct exec),
	.check = exec_check,
	.open = exec_open,
	.send = exec_send,
	.poll = exec_poll,
	.close = exec_close,
};
