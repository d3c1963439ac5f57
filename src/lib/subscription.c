/* The public face of subscriptions. */
#include "base/json.h"
#include "lib/herald.h"
#include "store/executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* What herald_subscription_set knows. */
/* clang-format off */
enum setting {
	CATEGORIES, TOPICS, TYPES, CATEGORY, STREAM, START, PARTITIONS, ON_FAILURE, MAX_ATTEMPTS,
	BACKOFF, OWNER, LEASE, BATCH, MAX_SLEEP, LISTEN, SCHEMA, N_SETTINGS
};
/* clang-format on */

static const struct {
	const char *name;
	const char *usual;
	int64_t least, most; /* of a number; most 0: it is a text */
} settings[N_SETTINGS] = {
	[CATEGORIES] = { "categories" },
	[TOPICS] = { "topics" },
	[TYPES] = { "types" },
	[CATEGORY] = { "category" },
	[STREAM] = { "stream" },
	[START] = { "start", "beginning" },
	[PARTITIONS] = { "partitions", "0", 1, 1024 },
	[ON_FAILURE] = { "on-failure" },
	[MAX_ATTEMPTS] = { "max-attempts", "0", 1, 1000000 },
	[BACKOFF] = { "backoff", "0", 1, 3600000 },
	[OWNER] = { "owner" },
	[LEASE] = { "lease", "30000", 100, 86400000 },
	[BATCH] = { "batch", "100", 1, 10000 },
	[MAX_SLEEP] = { "max-sleep", "100", 1, 60000 },
	[LISTEN] = { "listen", "true" },
	[SCHEMA] = { "schema", "herald" },
};

struct herald_subscription {
	struct executor executor;
	char *name;
	char *values[N_SETTINGS]; /* NULL: as usual */
	char owner[64];
	herald_handler *fn;
	void *user;
	struct err err;
	bool made;
};

static const char *value(const struct herald_subscription *m, enum setting i)
{
	return m->values[i] ? m->values[i] : settings[i].usual;
}

static int64_t number(const struct herald_subscription *m, enum setting i)
{
	return strtoll(value(m, i), NULL, 10);
}

static const char *on_event(void *user, const struct store_event *e, void *transaction)
{
	struct herald_subscription *m = user;
	struct herald_stored stored = lib_stored(e);
	const char *why = m->fn(m->user, &stored, transaction);

	if (why)
		err_set(&m->err, ERR_REJECT, "event %lld: %s", (long long)e->position, why);
	return why;
}

struct herald_subscription *herald_subscription_new(const char *url, const char *name)
{
	struct herald_subscription *m = mem_alloc(sizeof(*m));

	m->name = mem_strdup(name);
	if (executor_init(&m->executor, url, m->name, &m->err))
		m->made = false; /* the first step says so */
	return m;
}

void herald_subscription_free(struct herald_subscription *m)
{
	if (!m)
		return;
	executor_release(&m->executor);
	for (int i = 0; i < N_SETTINGS; i++)
		free(m->values[i]);
	free(m->name);
	free(m);
}

static bool is_number(const char *text, int64_t least, int64_t most)
{
	char *end;
	int64_t n = strtoll(text, &end, 10);

	return end != text && !*end && n >= least && n <= most;
}

int herald_subscription_set(struct herald_subscription *m, const char *name, const char *text)
{
	int i = 0;

	if (m->made)
		return err_set(&m->err, ERR_USAGE, "it has begun: set it up before the first step");
	while (i < N_SETTINGS && strcmp(settings[i].name, name) != 0)
		i++;
	if (i == N_SETTINGS)
		return err_set(&m->err, ERR_USAGE, "a subscription has no setting %s", name);
	if (settings[i].most && !is_number(text, settings[i].least, settings[i].most))
		return err_set(&m->err, ERR_USAGE, "%s is a number from %lld to %lld, not %s", name,
			       (long long)settings[i].least, (long long)settings[i].most, text);
	free(m->values[i]);
	m->values[i] = mem_strdup(text);
	return 0;
}

void herald_subscription_on(struct herald_subscription *m, herald_handler *fn, void *user)
{
	m->fn = fn;
	m->user = user;
}

/* {"categories":["a","b"],"types":[...]} or {"category":"a","stream":"b"} */
static void put_source(const struct herald_subscription *m, struct strbuf *b)
{
	strbuf_ch(b, '{');
	for (enum setting i = CATEGORIES; i <= STREAM; i++) {
		if (!m->values[i])
			continue;
		strbuf_printf(b, "%s\"%s\":", b->n > 1 ? "," : "", settings[i].name);
		if (i <= TYPES)
			store_names_json(b, m->values[i]);
		else
			json_string(b, str_c(m->values[i]));
	}
	strbuf_ch(b, '}');
}

/* Makes the subscription where it is not there. */
static int subscribe(void *user, struct err *err)
{
	struct herald_subscription *m = user;
	struct store_subscription sub = { .name = m->name,
					  .partitions = (int)number(m, PARTITIONS),
					  .start = value(m, START),
					  .on_failure = m->values[ON_FAILURE],
					  .max_attempts = (int)number(m, MAX_ATTEMPTS),
					  .backoff_ms = number(m, BACKOFF) };
	struct strbuf source = { 0 };
	int made;

	put_source(m, &source);
	sub.source = strbuf_cstr(&source);
	made = store_call(&m->executor.store, err, subscribe, &sub);
	strbuf_release(&source);
	return made < 0 ? -1 : 0;
}

static void configure(struct herald_subscription *m)
{
	struct executor *e = &m->executor;

	snprintf(m->owner, sizeof(m->owner), "pid %d", (int)getpid());
	e->owner = m->values[OWNER] ? m->values[OWNER] : m->owner;
	e->lease_ms = number(m, LEASE);
	e->batch = (int)number(m, BATCH);
	e->max_sleep_ms = (int)number(m, MAX_SLEEP);
	e->listens = strcmp(value(m, LISTEN), "true") == 0;
	e->store.schema = value(m, SCHEMA);
	e->begin = subscribe;
	e->fn = on_event;
	e->user = m;
}

/* Before the first call that connects. */
static int prepare(struct herald_subscription *m)
{
	if (m->made)
		return 0;
	if (m->err.kind == ERR_CONFIG && !m->executor.store.backend)
		return -1;
	if (!m->fn)
		return err_set(&m->err, ERR_USAGE, "nothing to do: no handler");
	configure(m);
	m->made = true;
	return 0;
}

/* For calls that are no steps: the subscription is there afterwards. */
static int begin(struct herald_subscription *m)
{
	return prepare(m) || subscribe(m, &m->err) ? -1 : 0;
}

int herald_subscription_fd(struct herald_subscription *m)
{
	return executor_fd(&m->executor);
}

int herald_subscription_step(struct herald_subscription *m, int timeout_ms)
{
	return prepare(m) ? -1 : executor_step(&m->executor, timeout_ms, &m->err);
}

int herald_subscription_run(struct herald_subscription *m)
{
	int done;

	do {
		done = herald_subscription_step(m, -1);
	} while (done == 0);
	return done < 0 ? -1 : 0;
}

void herald_subscription_stop(struct herald_subscription *m)
{
	executor_stop(&m->executor);
}

const char *herald_subscription_error(const struct herald_subscription *m)
{
	return m->err.msg;
}

int herald_subscription_resume(struct herald_subscription *m)
{
	int64_t resumed;

	if (begin(m))
		return -1;
	return store_call(&m->executor.store, &m->err, resume, m->name, &resumed) < 0 ? -1 : 0;
}

struct lag_of {
	const char *name;
	struct herald_lag *lag;
};

/* A partition; of those of all subscriptions. */
static int add_lag(void *user, int n, const char *const *names, const char *const *values)
{
	const struct lag_of *of = user;
	struct herald_lag here = { 0 };
	bool ours = false;

	for (int i = 0; i < n; i++) {
		if (!values[i])
			continue;
		if (strcmp(names[i], "subscription") == 0)
			ours = strcmp(values[i], of->name) == 0;
		else if (strcmp(names[i], "behind") == 0)
			here.behind = strtoll(values[i], NULL, 10);
		else if (strcmp(names[i], "parked") == 0)
			here.parked = strtoll(values[i], NULL, 10);
		else if (strcmp(names[i], "stopped") == 0)
			here.stopped = *values[i] == 't';
	}
	if (!ours)
		return 0;
	of->lag->behind = here.behind > of->lag->behind ? here.behind : of->lag->behind;
	of->lag->parked += here.parked;
	of->lag->stopped += here.stopped;
	return 0;
}

int herald_subscription_lag(struct herald_subscription *m, struct herald_lag *lag)
{
	*lag = (struct herald_lag){ 0 };
	if (!m->made)
		configure(m);
	return store_call(&m->executor.store, &m->err, list, STORE_LAG, NULL, add_lag,
			  &(struct lag_of){ m->name, lag });
}

int herald_subscription_drop(struct herald_subscription *m)
{
	if (!m->made)
		configure(m);
	return store_call(&m->executor.store, &m->err, unsubscribe, m->name) < 0 ? -1 : 0;
}

int herald_subscription_retry_parked(struct herald_subscription *m, int64_t *done)
{
	*done = 0;
	return begin(m) ? -1 : executor_retry_parked(&m->executor, done, &m->err);
}
