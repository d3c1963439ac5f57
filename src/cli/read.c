/* pgherald read: events of the store as JSON lines. */
#include "base/log.h"
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

#define PAGE 1000
#define LONGEST_SLEEP 100 /* ms */

struct reader {
	struct store store;
	struct store_page page;
	const struct settings *settings;
	struct store_query query; /* the next page */
	int64_t left;             /* events that may still be printed */
	struct strbuf out;
};

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = number;
}

/* Prints the next page; *n is the number of its events. */
static int read_page(struct reader *r, int *n, struct err *err)
{
	r->query.max = r->left < PAGE ? (int)r->left : PAGE;
	if (store_call(&r->store, err, read, &r->query, &r->page))
		return -1;
	r->out.n = 0;
	*n = (int)r->page.n;
	for (int i = 0; i < *n; i++) {
		store_event_json(&r->out, &r->page.events[i]);
		strbuf_ch(&r->out, '\n');
	}
	store_query_advance(&r->query, &r->page);
	r->left -= *n;
	if (*n && (fwrite(r->out.p, 1, r->out.n, stdout) != r->out.n || fflush(stdout)))
		return err_set(err, ERR_FAIL, "cannot write: %s", strerror(errno));
	return 0;
}

static int read_all(struct reader *r, struct err *err)
{
	int sleep = 1, n;

	while (!stopped && r->left) {
		if (read_page(r, &n, err))
			return -1;
		if (n)
			sleep = 1;
		if (n == PAGE)
			continue;
		if (!r->settings->follow)
			return 0;
		poll(NULL, 0, sleep);
		sleep = 2 * sleep < LONGEST_SLEEP ? 2 * sleep : LONGEST_SLEEP;
	}
	return 0;
}

/* What the settings ask for. */
static int make_query(struct store_query *q, const struct settings *s, struct err *err)
{
	if (s->stream_id && (!s->category || s->types || s->topics))
		return err_set(err, ERR_USAGE,
			       "a stream is read by --category and --stream-id alone");
	if (!s->stream_id && (s->before || s->backward))
		return err_set(err, ERR_USAGE,
			       "--before and --backward are for one stream: --category and "
			       "--stream-id");
	if (s->follow && (s->before || s->backward))
		return err_set(err, ERR_USAGE,
			       "--follow has no end: it goes without --before and "
			       "--backward");
	*q = (struct store_query){ .from = s->after,
				   .to = s->before ? s->before - 1 : -1,
				   .backward = s->backward };
	if (s->stream_id) {
		q->category = s->category;
		q->stream = s->stream_id;
	} else {
		q->categories = s->category;
		q->topics = s->topics;
		q->types = s->types;
	}
	return 0;
}

int read_run(const struct command *command, struct settings *s)
{
	struct reader r = { .settings = s, .left = s->limit ? s->limit : INT64_MAX };
	struct sigaction action = { .sa_handler = stop };
	struct err err = { 0 };
	int failed;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	failed = make_query(&r.query, s, &err) || cli_store(&r.store, s, &err) || read_all(&r, &err);
	if (failed)
		log_error("%s", err.msg);
	store_page_release(&r.page);
	store_release(&r.store);
	strbuf_release(&r.out);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
