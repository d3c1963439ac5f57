/*
 * Orders, event-sourced: an aggregate that decides, a read model that a subscription keeps, and two
 * executors that share the work. With a server or with a file:
 *
 *	cc orders.c -o orders $(pkg-config --cflags --libs pgherald libpq sqlite3) -pthread
 *	./orders sqlite:shop.db
 *	./orders "dbname=shop"
 */
#include <libpq-fe.h>
#include <pgherald.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORDERS 20
#define EVENTS (3 * ORDERS)

static const char *url;
static atomic_int handled;

/* ---- the aggregate: what its events make of it, and what may follow ---- */

struct order {
	int placed, sent;
	long paid; /* cents */
	char events[200];
};

static void reset(void *state)
{
	memset(state, 0, sizeof(struct order));
}

static int fold(void *state, const struct herald_stored *e)
{
	struct order *o = state;

	if (!e->type) /* a snapshot: [placed, paid, sent] */
		return sscanf(e->data, "[%d, %ld, %d]", &o->placed, &o->paid, &o->sent) == 3 ? 0 : -1;
	o->placed |= strcmp(e->type, "Placed") == 0;
	o->sent |= strcmp(e->type, "Sent") == 0;
	if (strcmp(e->type, "Paid") == 0)
		o->paid += strtol(e->data, NULL, 10);
	return 0;
}

static const char *place(void *state, void *command)
{
	return ((struct order *)state)->placed ? NULL : "{\"type\": \"Placed\"}";
}

static const char *pay(void *state, void *command)
{
	struct order *o = state;

	snprintf(o->events, sizeof(o->events), "{\"type\": \"Paid\", \"data\": %ld}",
		 *(long *)command);
	return o->events;
}

static const char *ship(void *state, void *command)
{
	struct order *o = state;

	return o->paid >= 500 && !o->sent ? "{\"type\": \"Sent\"}" : NULL;
}

static int save(struct herald_store *s, const char *id,
		const char *(*decide)(void *state, void *command), long amount)
{
	struct herald_aggregate order = { reset, fold, decide };
	struct order state;

	return herald_store_save(s, "order", id, &order, &state, &amount, NULL);
}

/* ---- the read model: a table, in the transaction that moves the subscription on ---- */

/* On a connection of the library's, which is a PGconn or a sqlite3. NULL, or what went wrong. */
static const char *run(void *connection, const char *sql)
{
	static _Thread_local char why[200];
	PGresult *res;

	why[0] = '\0';
	if (strncmp(url, "sqlite:", 7) == 0) {
		if (sqlite3_exec(connection, sql, NULL, NULL, NULL))
			snprintf(why, sizeof(why), "%s", sqlite3_errmsg(connection));
	} else {
		res = PQexec(connection, sql);
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			snprintf(why, sizeof(why), "%s", PQresultErrorMessage(res));
		PQclear(res);
	}
	return why[0] ? why : NULL;
}

static const char *project(void *user, const struct herald_stored *e, void *transaction)
{
	char *sql = sqlite3_mprintf("insert into order_view (id, state) values (%Q, %Q)"
				    " on conflict (id) do update set state = excluded.state",
				    e->stream, e->type);
	const char *why = run(transaction, sql);

	sqlite3_free(sql);
	if (!why)
		handled++;
	return why;
}

/* An executor: a thread or a process with a subscription of its own. */
static void *work(void *name)
{
	struct herald_subscription *m = herald_subscription_new(url, "order_view");
	int done = 0;

	herald_subscription_set(m, "categories", "order");
	herald_subscription_set(m, "partitions", "4");
	herald_subscription_set(m, "owner", name);
	herald_subscription_on(m, project, NULL);
	while (done == 0 && handled < EVENTS)
		done = herald_subscription_step(m, 100);
	if (done < 0)
		fprintf(stderr, "orders: %s\n", herald_subscription_error(m));
	herald_subscription_free(m);
	return NULL;
}

static char first_name[] = "first", second_name[] = "second";

static int write_orders(struct herald_store *s)
{
	char id[20];

	for (int i = 1; i <= ORDERS; i++) {
		snprintf(id, sizeof(id), "%d", i);
		if (save(s, id, place, 0) || save(s, id, pay, 500) || save(s, id, ship, 0) ||
		    save(s, id, ship, 0)) /* it is sent already: nothing happens */
			return -1;
	}
	return herald_store_snapshot(s, "order", "1", 2, "[1, 500, 1]");
}

int main(int argc, char **argv)
{
	pthread_t first, second;
	struct herald_store *s;
	struct order order = { 0 };
	int64_t version;
	int failed;

	url = argc > 1 ? argv[1] : "sqlite::memory:";
	s = herald_store_open(url);
	failed = herald_store_init(s);
	if (!failed)
		run(herald_store_connection(s),
		    "create table if not exists order_view (id text primary key, state text)");
	if (!failed) {
		pthread_create(&first, NULL, work, first_name);
		pthread_create(&second, NULL, work, second_name);
		failed = write_orders(s);
		if (failed) /* nothing more to wait for */
			handled = EVENTS;
		pthread_join(first, NULL);
		pthread_join(second, NULL);
	}
	failed = failed || herald_store_load(s, "order", "1", fold, &order, &version);
	if (failed)
		fprintf(stderr, "orders: %s\n", herald_store_error(s));
	else
		printf("order 1 is at version %lld, paid %ld, %s; %d events in the view\n",
		       (long long)version, order.paid, order.sent ? "sent" : "not sent", handled);
	herald_store_close(s);
	return failed ? 1 : 0;
}
