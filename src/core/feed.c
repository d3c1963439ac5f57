#include "core/feed.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>

static const char *name_of(const struct feed *f)
{
	return f->settings->subscription;
}

static bool is_of_parked(const struct feed *f)
{
	return f->settings->parked;
}

int feed_init(struct feed *f, const struct settings *settings, const char *owner,
	      const _Atomic int *stop, struct err *err)
{
	*f = (struct feed){ .settings = settings, .owner = owner, .socket = -1 };
	if (store_init(&f->store, settings->connection, err))
		return -1;
	f->store.schema = settings->schema;
	f->store.stop = stop;
	return 0;
}

void feed_release(struct feed *f)
{
	store_page_release(&f->page);
	store_release(&f->store);
}

bool feed_connected(const struct feed *f)
{
	return f->store.state;
}

bool feed_lost_lease(const struct feed *f)
{
	return f->store.reason == STORE_LEASE_LOST;
}

void feed_disconnect(struct feed *f)
{
	store_disconnect(&f->store);
	f->socket = -1;
}

int feed_last(struct feed *f, int64_t *last, struct err *err)
{
	struct store_identity now;

	if (store_call(&f->store, err, identify, &now))
		return -1;
	*last = now.last;
	return 0;
}

/* ---- connecting ---- */

static void put_list(struct strbuf *b, const char *name, const char *list)
{
	if (!list)
		return;
	strbuf_printf(b, "%s\"%s\":", b->n > 1 ? "," : "", name);
	store_names_json(b, list);
}

/* What the settings say of it: a source that they do not name is taken as it is. */
static int subscribe(struct feed *f, struct err *err)
{
	const struct settings *o = f->settings;
	struct store_subscription sub = { .name = name_of(f),
					  .partitions = (int)o->partitions,
					  .start = o->start ? o->start : "beginning",
					  .on_failure = o->on_failure,
					  .max_attempts = (int)o->attempts };
	struct strbuf source = { 0 };
	int64_t resumed = 0;
	int made;

	strbuf_ch(&source, '{');
	put_list(&source, "categories", o->category);
	put_list(&source, "topics", o->topics);
	put_list(&source, "types", o->types);
	strbuf_ch(&source, '}');
	if (source.n > strlen("{}"))
		sub.source = strbuf_cstr(&source);
	made = store_call(&f->store, err, subscribe, &sub);
	strbuf_release(&source);
	if (made < 0 || store_call(&f->store, err, resume, sub.name, &resumed))
		return -1;
	if (resumed)
		log_info("%" PRId64 " partitions of %s that had failed try again", resumed, sub.name);
	return 0;
}

static int start_to_follow(struct feed *f, struct err *err)
{
	const char *start = f->settings->start;

	if (!start || strcmp(start, "end") == 0)
		return store_call(&f->store, err, end, &f->followed);
	f->followed = strtoll(start, NULL, 10); /* "beginning" is 0 */
	return 0;
}

static int begin(struct feed *f, struct err *err)
{
	const char *name = name_of(f);
	int failed = !name             ? start_to_follow(f, err)
		     : is_of_parked(f) ? store_check_subscription(&f->store, name, err)
				       : subscribe(f, err);

	if (failed)
		return -1;
	log_info("delivering %s%s of database %s",
		 !name             ? "new events"
		 : is_of_parked(f) ? "parked events of subscription "
				   : "subscription ",
		 name ? name : "", f->is.name);
	f->known = true;
	return 0;
}

static int resume(struct feed *f, const struct store_identity *now, int64_t done, struct err *err)
{
	if (now->id != f->is.id || now->last < done)
		return err_set(err, ERR_LOST,
			       "this store's feed ends at %" PRId64 ", but %" PRId64
			       " has been delivered: it is another, or a failover lost events",
			       now->last, done);
	log_info("connected again");
	return 0;
}

bool feed_connecting(const struct feed *f)
{
	return f->store.dial;
}

int feed_connect(struct feed *f, int wake, int64_t done, struct err *err)
{
	struct store_identity now;
	int there = store_connect(&f->store, wake, err);

	if (there <= 0)
		return there;
	f->socket = -1;
	if (store_call(&f->store, err, identify, &now))
		return -1;
	if (!f->known)
		f->is = now;
	if (f->known ? resume(f, &now, done, err) : begin(f, err))
		return -1;
	return store_call(&f->store, err, listen, &f->socket) ? -1 : 1;
}

/* ---- a partition ---- */

int feed_claim(struct feed *f, struct store_lease *lease, struct err *err)
{
	*lease = (struct store_lease){ .name = is_of_parked(f) ? NULL : name_of(f),
				       .partitions = 1,
				       .position = f->followed };
	return lease->name
		       ? store_call(&f->store, err, claim, f->owner, f->settings->lease * 1000, lease)
		       : 1;
}

int feed_ack(struct feed *f, const struct store_lease *lease, int64_t position, struct err *err)
{
	if (is_of_parked(f))
		return store_call(&f->store, err, parked_done, name_of(f), position) < 0 ? -1 : 0;
	return lease->name ? store_call(&f->store, err, ack, lease, position) : 0;
}

int feed_fail(struct feed *f, const struct store_lease *lease, int64_t position, const char *why,
	      enum store_outcome *outcome, struct err *err)
{
	return store_call(&f->store, err, fail, lease, position, why, outcome);
}

int feed_renew(struct feed *f, const struct store_lease *lease, struct err *err)
{
	return lease->name ? store_call(&f->store, err, renew, lease) : 0;
}

int feed_give_back(struct feed *f, const struct store_lease *lease, struct err *err)
{
	return lease->name ? store_call(&f->store, err, release, lease) : 0;
}

static int follow(struct feed *f, int most, struct err *err)
{
	const struct settings *o = f->settings;
	const struct store_query q = { .from = f->followed,
				       .max = most,
				       .categories = o->category,
				       .topics = o->topics,
				       .types = o->types };

	if (store_call(&f->store, err, read, &q, &f->page))
		return -1;
	if (f->page.n)
		f->followed = f->page.events[f->page.n - 1].position;
	return 0;
}

/* It is not held while it is under way: that would keep all writers of a SQLite file waiting. */
static int read_parked(struct feed *f, struct err *err)
{
	int failed;

	if (store_begin(&f->store, err))
		return -1;
	failed = store_call(&f->store, err, parked_next, name_of(f), &f->page);
	store_rollback(&f->store);
	return failed;
}

int feed_fetch(struct feed *f, const struct store_lease *lease, int64_t done, int most,
	       struct err *err)
{
	f->row = 0;
	if (lease->name)
		return store_call(&f->store, err, fetch, lease, done, most, &f->page);
	if (done >= 0 && feed_ack(f, lease, done, err))
		return -1;
	return is_of_parked(f) ? read_parked(f, err) : follow(f, most, err);
}

const struct store_event *feed_next(const struct feed *f)
{
	return f->row < f->page.n ? &f->page.events[f->row] : NULL;
}

void feed_drop_page(struct feed *f)
{
	store_page_clear(&f->page);
	f->row = 0;
}

int feed_sleep(struct feed *f, int64_t *ms, struct err *err)
{
	return store_call(&f->store, err, sleep, name_of(f), ms);
}

bool feed_woken(struct feed *f)
{
	return f->store.backend->drain(&f->store);
}
