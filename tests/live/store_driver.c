/*
 * Drives libpgherald's event store for the tests: reads commands from standard input, one JSON
 * object a line, and answers each with one. store_driver URL
 */
#include <jansson.h>
#include <libpq-fe.h>
#include <pgherald.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

static const char *url;
static struct herald_store *store;

static const char *text(json_t *c, const char *name)
{
	return json_string_value(json_object_get(c, name));
}

static int64_t number(json_t *c, const char *name, int64_t missing)
{
	json_t *v = json_object_get(c, name);

	return json_is_integer(v) ? json_integer_value(v) : missing;
}

static json_t *text_or_null(const char *s)
{
	return s ? json_string(s) : json_null();
}

static json_t *event_json(const struct herald_stored *e)
{
	json_t *o = json_object();

	json_object_set_new(o, "position", json_integer(e->position));
	json_object_set_new(o, "version", json_integer(e->version));
	json_object_set_new(o, "time", json_integer(e->time));
	json_object_set_new(o, "category", json_string(e->category));
	json_object_set_new(o, "stream", json_string(e->stream));
	json_object_set_new(o, "id", text_or_null(e->id));
	json_object_set_new(o, "type", text_or_null(e->type));
	json_object_set_new(o, "topic", text_or_null(e->topic));
	json_object_set_new(o, "data", json_string(e->data));
	json_object_set_new(o, "metadata", text_or_null(e->metadata));
	return o;
}

static int collect(void *events, const struct herald_stored *e)
{
	json_array_append_new(events, event_json(e));
	return 0;
}

/* Runs SQL on a connection of the library's. Returns what went wrong, or NULL. */
static const char *run_sql(void *connection, const char *sql)
{
	static char why[200];
	PGresult *res;
	int bad;

	if (strncmp(url, "sqlite:", 7) == 0) {
		bad = sqlite3_exec(connection, sql, NULL, NULL, NULL);
		snprintf(why, sizeof(why), "%s", sqlite3_errmsg(connection));
		return bad ? why : NULL;
	}
	res = PQexec(connection, sql);
	bad = PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK;
	snprintf(why, sizeof(why), "%s", PQresultErrorMessage(res));
	PQclear(res);
	return bad ? why : NULL;
}

/* ---- an aggregate: a sum ---- */

struct sum {
	int64_t total, seen;
	const char *interloper; /* appended by somebody else before the first decision */
	char events[100];
};

static void sum_reset(void *state)
{
	((struct sum *)state)->total = 0;
}

static int sum_fold(void *state, const struct herald_stored *e)
{
	struct sum *s = state;

	s->total = e->type ? s->total + strtoll(e->data, NULL, 10) : strtoll(e->data, NULL, 10);
	s->seen++;
	return 0;
}

static const char *sum_decide(void *state, void *command)
{
	struct herald_store *other;
	struct sum *s = state;
	json_t *c = command;

	if (s->interloper) {
		other = herald_store_open(url);
		herald_store_append(other, text(c, "category"), text(c, "stream"), s->interloper,
				    HERALD_ANY_VERSION, NULL);
		herald_store_close(other);
		s->interloper = NULL;
	}
	if (!json_object_get(c, "add"))
		return NULL;
	snprintf(s->events, sizeof(s->events), "{\"type\": \"Added\", \"data\": %lld}",
		 (long long)number(c, "add", 0));
	return s->events;
}

static const struct herald_aggregate sum_aggregate = { sum_reset, sum_fold, sum_decide };

/* ---- a subscriber ---- */

struct follower {
	struct herald_subscription *subscription;
	const char *name, *bad; /* stream whose events fail */
	int64_t calls, failures, until;
};

/* Writes what it sees into the table seen, in the transaction. */
static const char *handle(void *user, const struct herald_stored *e, void *transaction)
{
	struct follower *f = user;
	const char *why;
	char *sql = sqlite3_mprintf("insert into seen (name, position, stream, version)"
				    " values (%Q, %lld, %Q, %lld)",
				    f->name, (long long)e->position, e->stream,
				    (long long)e->version);

	why = run_sql(transaction, sql);
	sqlite3_free(sql);
	if (!why && f->bad && strcmp(e->stream, f->bad) == 0 && f->failures-- > 0)
		why = "it is bad";
	if (++f->calls >= f->until)
		herald_subscription_stop(f->subscription);
	return why;
}

static struct herald_subscription *make_subscription(json_t *c, struct follower *f)
{
	struct herald_subscription *m = herald_subscription_new(url, text(c, "name"));
	const char *key;
	json_t *v;

	*f = (struct follower){ m,
				text(c, "name"),
				text(c, "bad"),
				0,
				number(c, "failures", 1 << 30),
				number(c, "until", 1 << 30) };
	herald_subscription_on(m, handle, f);
	json_object_foreach(json_object_get(c, "set"), key,
			    v) if (herald_subscription_set(m, key, json_string_value(v)))
		fprintf(stderr, "%s\n", herald_subscription_error(m));
	return m;
}

/* ---- commands ---- */

static int do_append(json_t *c, json_t *answer)
{
	struct herald_appended done = { -1, -1, 0 };
	int failed = herald_store_append(store, text(c, "category"), text(c, "stream"),
					 text(c, "events"),
					 number(c, "expected", HERALD_ANY_VERSION), &done);

	json_object_set_new(answer, "first", json_integer(done.first));
	json_object_set_new(answer, "last", json_integer(done.last));
	json_object_set_new(answer, "duplicate", json_boolean(done.duplicate));
	return failed;
}

static int do_append_many(json_t *c, json_t *answer)
{
	return herald_store_append_many(store, text(c, "events"));
}

static int do_read(json_t *c, json_t *answer)
{
	struct herald_wanted w = { number(c, "after", 0), number(c, "limit", 0),
				   text(c, "categories"), text(c, "topics"), text(c, "types") };
	json_t *events = json_array();

	json_object_set_new(answer, "events", events);
	return herald_store_read(store, &w, collect, events);
}

static int do_stream(json_t *c, json_t *answer)
{
	struct herald_versions versions = { number(c, "from", 0), number(c, "to", -1),
					    (int)number(c, "backward", 0) };
	json_t *events = json_array();

	json_object_set_new(answer, "events", events);
	return herald_store_read_stream(store, text(c, "category"), text(c, "stream"), &versions,
					collect, events);
}

static int do_load(json_t *c, json_t *answer)
{
	json_t *events = json_array();
	int64_t version;
	int failed;

	json_object_set_new(answer, "events", events);
	failed = herald_store_load(store, text(c, "category"), text(c, "stream"), collect, events,
				   &version);
	json_object_set_new(answer, "version", json_integer(version));
	return failed;
}

static int do_snapshot(json_t *c, json_t *answer)
{
	return herald_store_snapshot(store, text(c, "category"), text(c, "stream"),
				     number(c, "version", 0), text(c, "state"));
}

static int do_save(json_t *c, json_t *answer)
{
	struct sum s = { .interloper = text(c, "interloper") };
	struct herald_appended done;
	int failed = herald_store_save(store, text(c, "category"), text(c, "stream"),
				       &sum_aggregate, &s, c, &done);

	json_object_set_new(answer, "total", json_integer(s.total));
	json_object_set_new(answer, "folded", json_integer(s.seen));
	return failed;
}

static int do_init(json_t *c, json_t *answer)
{
	return herald_store_init(store);
}

static int do_begin(json_t *c, json_t *answer)
{
	return herald_store_begin(store);
}

static int do_commit(json_t *c, json_t *answer)
{
	return herald_store_commit(store);
}

static int do_rollback(json_t *c, json_t *answer)
{
	herald_store_rollback(store);
	return 0;
}

static int do_sql(json_t *c, json_t *answer)
{
	const char *why = run_sql(herald_store_connection(store), text(c, "sql"));

	if (why)
		json_object_set_new(answer, "sql", json_string(why));
	return 0;
}

static int do_retain(json_t *c, json_t *answer)
{
	return herald_store_retain(store, text(c, "category"), number(c, "age", 0),
				   number(c, "count", 0));
}

static int do_purge(json_t *c, json_t *answer)
{
	int64_t removed = 0;
	int failed = herald_store_purge(store, (int)number(c, "max", 1000),
					json_is_true(json_object_get(c, "force")), &removed);

	json_object_set_new(answer, "removed", json_integer(removed));
	return failed;
}

static int do_truncate(json_t *c, json_t *answer)
{
	return herald_store_truncate(store, text(c, "category"), text(c, "stream"),
				     number(c, "before", 0));
}

static int do_delete(json_t *c, json_t *answer)
{
	return herald_store_delete(store, text(c, "category"), text(c, "stream"));
}

static int do_redact(json_t *c, json_t *answer)
{
	return herald_store_redact(store, number(c, "position", 0), text(c, "data"));
}

/* Runs a subscription until its handler was called so often, or what is there is done ("idle"). */
static int do_follow(json_t *c, json_t *answer)
{
	struct follower f;
	struct herald_subscription *m = make_subscription(c, &f);
	int64_t quiet = number(c, "quiet_steps", 0), last = 0, idle = 0;
	int done = 0;

	if (herald_subscription_fd(m) < 0)
		done = -1;
	while (done == 0 && (!quiet || idle < quiet)) {
		done = herald_subscription_step(m, (int)number(c, "timeout", 5000));
		idle = f.calls == last ? idle + 1 : 0;
		last = f.calls;
	}
	json_object_set_new(answer, "calls", json_integer(f.calls));
	json_object_set_new(answer, "said", json_string(herald_subscription_error(m)));
	herald_subscription_free(m);
	json_object_set_new(answer, "done", json_integer(done));
	return 0;
}

static int do_retry_parked(json_t *c, json_t *answer)
{
	struct follower f;
	struct herald_subscription *m = make_subscription(c, &f);
	int64_t done;
	int failed = herald_subscription_retry_parked(m, &done);

	json_object_set_new(answer, "retried", json_integer(done));
	json_object_set_new(answer, "said", json_string(herald_subscription_error(m)));
	herald_subscription_free(m);
	json_object_set_new(answer, "failed", json_boolean(failed));
	return 0;
}

static int do_resume(json_t *c, json_t *answer)
{
	struct follower f;
	struct herald_subscription *m = make_subscription(c, &f);
	int failed = herald_subscription_resume(m);

	herald_subscription_free(m);
	json_object_set_new(answer, "failed", json_boolean(failed));
	return 0;
}

static int do_drop(json_t *c, json_t *answer)
{
	struct follower f;
	struct herald_subscription *m = make_subscription(c, &f);
	int failed = herald_subscription_drop(m);

	herald_subscription_free(m);
	json_object_set_new(answer, "failed", json_boolean(failed));
	return 0;
}

static int do_lag(json_t *c, json_t *answer)
{
	struct follower f;
	struct herald_subscription *m = make_subscription(c, &f);
	struct herald_lag lag;
	int failed = herald_subscription_lag(m, &lag);

	herald_subscription_free(m);
	json_object_set_new(answer, "failed", json_boolean(failed));
	json_object_set_new(answer, "behind", json_integer(lag.behind));
	json_object_set_new(answer, "parked", json_integer(lag.parked));
	json_object_set_new(answer, "stopped", json_integer(lag.stopped));
	return 0;
}

static const struct {
	const char *name;
	int (*run)(json_t *command, json_t *answer);
} commands[] = {
	{ "init", do_init },
	{ "append", do_append },
	{ "append_many", do_append_many },
	{ "read", do_read },
	{ "stream", do_stream },
	{ "load", do_load },
	{ "snapshot", do_snapshot },
	{ "save", do_save },
	{ "begin", do_begin },
	{ "commit", do_commit },
	{ "rollback", do_rollback },
	{ "sql", do_sql },
	{ "retain", do_retain },
	{ "purge", do_purge },
	{ "truncate", do_truncate },
	{ "delete", do_delete },
	{ "redact", do_redact },
	{ "follow", do_follow },
	{ "retry_parked", do_retry_parked },
	{ "resume", do_resume },
	{ "drop", do_drop },
	{ "lag", do_lag },
};

static json_t *answer_to(json_t *c)
{
	json_t *answer = json_object();

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, text(c, "do")) != 0 || !commands[i].run(c, answer))
			continue;
		json_object_set_new(answer, "problem", json_integer(herald_store_problem(store)));
		json_object_set_new(answer, "error", json_string(herald_store_error(store)));
		json_object_set_new(answer, "actual", json_integer(herald_store_actual(store)));
	}
	return answer;
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t cap = 0;

	url = argv[1];
	store = herald_store_open(url);
	while (getline(&line, &cap, stdin) > 0) {
		json_t *c = json_loads(line, 0, NULL), *answer = answer_to(c);

		json_dumpf(answer, stdout, JSON_COMPACT);
		putchar('\n');
		fflush(stdout);
		json_decref(answer);
		json_decref(c);
	}
	free(line);
	herald_store_close(store);
	return 0;
}
