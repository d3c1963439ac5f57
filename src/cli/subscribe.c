/* pgherald subscribe: a subscription of the event store to outputs, until the end or a signal. */
#include "core/subscription.h"

#include "base/log.h"
#include "cli/cli.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static struct subscription *_Atomic running;
static volatile sig_atomic_t stops;

/* The first asks for an end in order, the second ends at once. */
static void on_stop(int signal)
{
	struct subscription *s = running;

	if (stops++)
		_exit(128 + signal);
	if (s)
		subscription_stop(s);
}

static void handle_signals(void)
{
	struct sigaction stop = { .sa_handler = on_stop, .sa_flags = SA_RESTART };

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* With --follow there is no name, so the one argument that may be given is the connection. */
static int sort_arguments(struct settings *s, struct err *err)
{
	if (s->follow && s->subscription && !*s->connection) {
		s->connection = s->subscription;
		s->subscription = NULL;
	}
	if (s->follow && s->subscription)
		return err_set(
			err, ERR_USAGE,
			"--follow shows new events and keeps no place: leave out the name, or "
			"--follow");
	if (s->follow && s->parked)
		return err_set(err, ERR_USAGE, "--parked needs a subscription, --follow has none");
	if (s->drop && (s->follow || s->parked))
		return err_set(err, ERR_USAGE, "--drop goes with a subscription's name alone");
	if (!s->follow && !s->subscription)
		return err_set(err, ERR_USAGE,
			       "name the subscription, or say --follow to see new events");
	return 0;
}

static int check_start(const struct settings *s, struct err *err)
{
	const char *start = s->start;

	if (!start || strcmp(start, "beginning") == 0 || strcmp(start, "end") == 0)
		return 0;
	if (start[strspn(start, "0123456789")])
		return err_set(err, ERR_USAGE,
			       "--start: \"%s\" is neither beginning nor end nor a position", start);
	return 0;
}

static int drop(const struct settings *s, struct err *err)
{
	struct store store = { 0 };
	int failed = cli_store(&store, s, err) ||
		     store_check_subscription(&store, s->subscription, err) ||
		     store_call(&store, err, unsubscribe, s->subscription) < 0;

	store_release(&store);
	return failed ? -1 : 0;
}

static int deliver(const struct settings *settings, struct err *err)
{
	struct subscription *s = subscription_open(settings, err);
	int done = s ? 0 : -1;

	running = s;
	if (s && stops)
		subscription_stop(s);
	while (done == 0)
		done = subscription_step(s, err);
	running = NULL;
	subscription_close(s);
	return done < 0 ? -1 : 0;
}

int subscribe_run(const struct command *command, struct settings *settings)
{
	struct err err = { 0 };
	int failed;

	handle_signals();
	failed = sort_arguments(settings, &err) || check_start(settings, &err) ||
		 (settings->drop ? drop(settings, &err) : deliver(settings, &err));
	if (failed)
		log_error("%s", err.msg);
	cli_free(settings);
	return failed ? err_exit_code(err.kind) : 0;
}
