/* pgherald store: makes the event store, looks at it, removes what somebody asks for. */
#include "base/json.h"
#include "cli/cli.h"
#include "cli/rows.h"

#include <stdio.h>

/* What a list's rows are printed with. */
struct printer {
	bool json;
	int rows, wrong;
};

static int init(struct store *store, const struct settings *s, struct err *err)
{
	int applied, version;

	if (store_make(store, &applied, &version, err))
		return -1;
	printf("The event store is %s, version %d.\n", applied ? "there now" : "up to date", version);
	return 0;
}

static void put_member(struct strbuf *b, const char *name, const char *value)
{
	strbuf_printf(b, ",\"%s\":", name);
	json_string(b, str_c(value));
}

static int show_finding(void *user, int n, const char *const *names, const char *const *values)
{
	struct printer *p = user;
	bool good = *values[1] == 't';
	struct strbuf b = { 0 };

	p->wrong += !good;
	if (p->json) {
		strbuf_printf(&b, "%s{\"ok\":%s", p->rows++ ? ",\n " : "[", good ? "true" : "false");
		put_member(&b, "check", values[0]);
		put_member(&b, "mend", values[2]);
		strbuf_ch(&b, '}');
	} else {
		strbuf_printf(&b, "%s  %s\n", good ? "ok   " : "WRONG", values[0]);
		if (!good)
			strbuf_printf(&b, "       %s\n", values[2]);
	}
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
	return 0;
}

static int show_number(void *user, int n, const char *const *names, const char *const *values)
{
	struct printer *p = user;

	if (p->json)
		printf("%s\"%s\":%s", p->rows++ ? "," : "{", values[0], values[1]);
	else
		printf("%-14s %s\n", values[0], values[1]);
	return 0;
}

static int check(struct store *store, const struct settings *s, struct err *err)
{
	struct printer p = { .json = s->json };

	if (store_call(store, err, list, STORE_CHECK, NULL, show_finding, &p))
		return -1;
	if (s->json)
		printf("]\n");
	return p.wrong ? err_set(err, ERR_FAIL, "%d of the checks failed", p.wrong) : 0;
}

/* The columns of the list of subscriptions that a line shows, in this order. */
enum lag_column {
	SUBSCRIPTION,
	PARTITION,
	POSITION,
	BEHIND,
	PARKED,
	OWNER,
	STOPPED,
	ERROR,
	N_SHOWN
};

static const char *const shown[N_SHOWN] = { "subscription", "partition", "position", "behind",
					    "parked",       "owner",     "stopped",  "error" };

static void put_subscription(struct strbuf *b, int n, const char *const *names,
			     const char *const *values)
{
	const char *v[N_SHOWN] = { "", "", "", "", "", "", "", "" };

	for (int i = 0; i < n; i++)
		for (int j = 0; j < N_SHOWN; j++)
			if (values[i] && strcmp(names[i], shown[j]) == 0)
				v[j] = values[i];
	strbuf_printf(b, "subscription %s, partition %s: at %s, %s behind, %s parked",
		      v[SUBSCRIPTION], v[PARTITION], v[POSITION], v[BEHIND], v[PARKED]);
	if (*v[STOPPED] == 't')
		strbuf_lit(b, ", stopped");
	else if (*v[OWNER])
		strbuf_printf(b, ", held by %s", v[OWNER]);
	if (*v[ERROR])
		strbuf_printf(b, ": %s", v[ERROR]);
}

static int show_subscription(void *user, int n, const char *const *names, const char *const *values)
{
	struct printer *p = user;
	struct strbuf b = { 0 };

	if (p->json) {
		strbuf_str(&b, p->rows++ ? STR(",\n ") : STR(""));
		rows_json(&b, n, names, values);
	} else {
		put_subscription(&b, n, names, values);
		strbuf_ch(&b, '\n');
	}
	fwrite(b.p, 1, b.n, stdout);
	strbuf_release(&b);
	return 0;
}

static int stats(struct store *store, const struct settings *s, struct err *err)
{
	struct printer numbers = { .json = s->json }, subscriptions = { .json = s->json };

	if (store_call(store, err, list, STORE_STATS, NULL, show_number, &numbers))
		return -1;
	if (s->json)
		printf(",\"subscriptions\":[");
	if (store_call(store, err, list, STORE_LAG, NULL, show_subscription, &subscriptions))
		return -1;
	if (s->json)
		printf("]}\n");
	return 0;
}

/* ---- events that go ---- */

static int check_stream(const struct settings *s, struct err *err)
{
	if (s->category && s->stream_id)
		return 0;
	return err_set(err, ERR_USAGE, "name the stream: --category and --stream-id");
}

static int truncate_stream(struct store *store, const struct settings *s, struct err *err)
{
	int64_t removed;

	if (check_stream(s, err))
		return -1;
	if (!s->before)
		return err_set(err, ERR_USAGE, "say before which version: --before");
	if (store_call(store, err, truncate, s->category, s->stream_id, s->before, &removed))
		return -1;
	printf("%lld events were removed.\n", (long long)removed);
	return 0;
}

static int delete_stream(struct store *store, const struct settings *s, struct err *err)
{
	int64_t removed;

	if (check_stream(s, err) ||
	    store_call(store, err, remove, s->category, s->stream_id, &removed))
		return -1;
	printf("%lld events were removed.\n", (long long)removed);
	return 0;
}

static int redact(struct store *store, const struct settings *s, struct err *err)
{
	int done;

	if (!s->position)
		return err_set(err, ERR_USAGE, "name the event: --position");
	done = store_call(store, err, redact, s->position, "{}");
	if (done == 0)
		return err_set(err, ERR_FAIL, "there is no event at position %lld",
			       (long long)s->position);
	return done < 0 ? -1 : 0;
}

/* The state is read from standard input. */
static int snapshot(struct store *store, const struct settings *s, struct err *err)
{
	struct strbuf state = { 0 };
	char block[4096];
	size_t n;
	int done;

	if (check_stream(s, err))
		return -1;
	if (!s->before)
		return err_set(
			err, ERR_USAGE,
			"say behind which events this is the state: --before the next version");
	while ((n = fread(block, 1, sizeof(block), stdin)) > 0)
		strbuf_add(&state, block, n);
	if (ferror(stdin) || !json_valid(strbuf_view(&state))) { /* also with a NUL in it */
		strbuf_release(&state);
		return err_set(err, ERR_FAIL, "what standard input has is no JSON");
	}
	done = store_call(store, err, snapshot, s->category, s->stream_id, s->before - 1,
			  strbuf_cstr(&state));
	strbuf_release(&state);
	if (done == 0)
		return err_set(err, ERR_FAIL, "there is a snapshot of a later version");
	return done < 0 ? -1 : 0;
}

static const struct {
	const char *name;
	int (*run)(struct store *store, const struct settings *s, struct err *err);
} tasks[] = {
	{ "init", init },
	{ "check", check },
	{ "stats", stats },
	{ "snapshot", snapshot },
	{ "truncate", truncate_stream },
	{ "delete", delete_stream },
	{ "redact", redact },
};

static int run(struct store *store, const struct settings *s, struct err *err)
{
	if (!s->task)
		return err_set(err, ERR_USAGE,
			       "say what to do: init, check, stats, snapshot, truncate, delete or "
			       "redact");
	if (cli_store(store, s, err))
		return -1;
	for (size_t i = 0; i < sizeof(tasks) / sizeof(tasks[0]); i++)
		if (strcmp(s->task, tasks[i].name) == 0)
			return tasks[i].run(store, s, err);
	return -1;
}

int store_run(const struct command *command, struct settings *s)
{
	struct store store = { 0 };
	struct err err = { 0 };
	int failed = run(&store, s, &err);

	if (failed)
		fprintf(stderr, "pgherald: %s\n", err.msg);
	store_release(&store);
	cli_free(s);
	return failed ? err_exit_code(err.kind) : 0;
}
