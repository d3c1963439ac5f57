/* pgherald retain and purge: how long events are kept, and removing those that are not. */
#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>

#define BATCH 1000

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = number;
}

/* "90d", "12h", "5m", "30s" in seconds; NULL is 0. */
static int parse_time(const char *text, int64_t *seconds, struct err *err)
{
	static const struct {
		char unit;
		int64_t seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
	char *end;

	*seconds = 0;
	if (!text)
		return 0;
	*seconds = strtoll(text, &end, 10);
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (end != text && end[0] == units[i].unit && !end[1] && *seconds > 0 &&
		    !__builtin_mul_overflow(*seconds, units[i].seconds, seconds) &&
		    *seconds <= INT64_MAX / 1000000)
			return 0;
	return err_set(err, ERR_USAGE, "\"%s\" is no time such as 90d, 12h, 5m or 30s", text);
}

int retain_run(const struct command *command, struct settings *s)
{
	struct store store = { 0 };
	struct err err = { 0 };
	int64_t age;
	int failed;

	if (!s->category)
		failed = err_set(&err, ERR_USAGE, "name the category: --category");
	else
		failed = parse_time(s->max_age, &age, &err) || cli_store(&store, s, &err) ||
			 store_call(&store, &err, retain, s->category, age, s->max_count);
	if (failed)
		log_error("%s", err.msg);
	store_release(&store);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}

static int purge_all(struct store *store, bool force, struct err *err)
{
	int64_t total = 0, n = 1;

	while (n && !stopped) {
		if (store_call(store, err, purge, BATCH, force, &n))
			return -1;
		total += n;
	}
	log_info("%lld events were removed", (long long)total);
	return 0;
}

/* Until the time, or a signal. */
static void wait_until(int64_t end_ms)
{
	int64_t left;

	while (!stopped && (left = end_ms - clock_ms()) > 0)
		poll(NULL, 0, left < 200 ? (int)left : 200);
}

static int purge_again(struct store *store, bool force, int64_t every_s, struct err *err)
{
	while (!stopped) {
		int64_t next = clock_ms() + every_s * 1000;

		if (purge_all(store, force, err)) {
			if (err->kind != ERR_RETRY)
				return -1;
			log_warn("%s", err->msg);
		}
		wait_until(next);
	}
	return 0;
}

int purge_run(const struct command *command, struct settings *s)
{
	struct sigaction action = { .sa_handler = stop };
	struct store store = { 0 };
	struct err err = { 0 };
	int64_t every;
	int failed;

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	failed = parse_time(s->every, &every, &err) || cli_store(&store, s, &err);
	if (!failed)
		failed = every ? purge_again(&store, s->force, every, &err)
			       : purge_all(&store, s->force, &err);
	if (failed)
		log_error("%s", err.msg);
	store_release(&store);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
