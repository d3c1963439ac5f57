/* pgherald parked: events that a subscription has put aside. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/rows.h"

#include <errno.h>
#include <stdio.h>

static int show(void *user, int n, const char *const *names, const char *const *values)
{
	const struct settings *s = user;
	struct strbuf b = { 0 };

	if (s->position && strtoll(values[0], NULL, 10) != s->position)
		return 0;
	rows_json(&b, n, names, values);
	strbuf_ch(&b, '\n');
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
	return 0;
}

static int print_event(const struct store_event *e, struct err *err)
{
	struct strbuf b = { 0 };
	int failed = 0;

	store_event_json(&b, e);
	strbuf_ch(&b, '\n');
	if (fwrite(b.p, 1, b.n, stdout) != b.n || fflush(stdout))
		failed = err_set(err, ERR_FAIL, "cannot write: %s", strerror(errno));
	strbuf_release(&b);
	return failed;
}

/* The first one that is free: printed, and then taken off. 1: it was, 0: there is none. */
static int retry_one(struct store *store, const char *name, struct store_page *page, struct err *err)
{
	int result = store_call(store, err, parked_next, name, page);

	if (result || !page->n)
		return result;
	if (print_event(&page->events[0], err))
		return -1;
	return store_call(store, err, parked_done, name, page->events[0].position) < 0 ? -1 : 1;
}

static int retry(struct store *store, const char *name, struct err *err)
{
	struct store_page page = { 0 };
	int found = 1;

	while (found > 0) {
		if (store_begin(store, err))
			break;
		found = retry_one(store, name, &page, err);
		if (found < 0)
			store_rollback(store);
		else if (store_commit(store, err))
			found = -1;
	}
	store_page_release(&page);
	return found;
}

/* Positions of those that are parked now. */
struct positions {
	const struct settings *settings;
	int64_t *v;
	size_t n;
};

static int note(void *user, int n, const char *const *names, const char *const *values)
{
	struct positions *p = user;
	int64_t position = strtoll(values[0], NULL, 10);

	if (p->settings->position && position != p->settings->position)
		return 0;
	p->v = mem_realloc(p->v, (p->n + 1) * sizeof(*p->v));
	p->v[p->n++] = position;
	return 0;
}

static int drop(struct store *store, const struct settings *s, struct err *err)
{
	struct positions p = { .settings = s };
	int failed = store_call(store, err, list, STORE_PARKED_LIST, s->subscription, note, &p);

	for (size_t i = 0; i < p.n && !failed; i++)
		failed = store_call(store, err, parked_done, s->subscription, p.v[i]) < 0;
	if (!failed)
		log_info("%zu events were dropped", p.n);
	free(p.v);
	return failed ? -1 : 0;
}

static int run(struct store *store, struct settings *s, struct err *err)
{
	if (store_check_subscription(store, s->subscription, err))
		return -1;
	if (strcmp(s->parked_task, "list") == 0)
		return store_call(store, err, list, STORE_PARKED_LIST, s->subscription, show, s);
	if (strcmp(s->parked_task, "drop") == 0)
		return drop(store, s, err);
	if (s->position)
		return err_set(err, ERR_USAGE,
			       "retry takes all, in their order: leave --position out");
	return retry(store, s->subscription, err);
}

int parked_run(const struct command *command, struct settings *s)
{
	struct store store = { 0 };
	struct err err = { 0 };
	int failed;

	if (!s->parked_task || !s->subscription)
		failed = err_set(&err, ERR_USAGE,
				 "say what to do, list, retry or drop, and of which subscription");
	else
		failed = cli_store(&store, s, &err) || run(&store, s, &err);
	if (failed)
		log_error("%s", err.msg);
	store_release(&store);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
