#include "core/intake.h"

static int plan_relation(struct intake *in, struct relation *rel, struct err *err)
{
	if (!rel->output_wants)
		rel->output_wants = mem_array(MAX_OUTPUTS + 1, sizeof(*rel->output_wants));
	rel->output_wants[in->outputs.n] =
		in->callback.wants ? in->callback.wants(in->callback.user, rel) : 0;
	if (fanout_plan(&in->outputs, rel, rel->output_wants, &rel->wanted, err))
		return -1;
	rel->wanted |= rel->output_wants[in->outputs.n];
	return 0;
}

/* Before the catalog is asked for what this transaction may have made. */
static int see_transaction(struct intake *in, struct err *err)
{
	uint32_t xid = in->decoder.in_transaction ? in->decoder.event.xid : 0;

	return session_see(in->session, xid, in->stop, err);
}

static int on_relation(void *user, struct relation *rel, struct arena *arena, struct err *err)
{
	struct intake *in = user;

	if (see_transaction(in, err) || session_describe(in->session, rel, arena, err))
		return -1;
	if (rel->store) {
		rel->wanted = store_rows_wanted(rel);
		return 0;
	}
	return plan_relation(in, rel, err);
}

static int on_retype(void *user, struct relation *rel, struct err *err)
{
	struct intake *in = user;

	return see_transaction(in, err) || session_retype(in->session, rel, err) ? -1 : 0;
}

static bool callback_wants(const struct intake *in, const struct event *e)
{
	if (!in->callback.event)
		return false;
	return !e->rel || e->rel->output_wants[in->outputs.n] & ACTION_BIT(e->action);
}

/* Gives the event to the callback; false when it said stop. */
static bool call_back(struct intake *in, const struct event *e)
{
	size_t i = in->outputs.n;
	enum capture_answer answer = in->callback.event(in->callback.user, e);

	if (answer == CAPTURE_STOP)
		return false;
	in->given[i]++;
	if (answer == CAPTURE_LATER ||
	    !later_empty(&in->later)) /* it counts when those before it do */
		later_put(&in->later, e->position);
	else
		in->taken[i]++;
	return true;
}

/* Hands an event to whoever wants it; returns false when the callback said stop. */
static bool hand_on(struct intake *in, const struct event *e)
{
	bool wanted = fanout_put(&in->outputs, e);

	if (e->action == ACTION_BEGIN || e->action == ACTION_COMMIT)
		return true;
	if (callback_wants(in, e)) {
		if (!call_back(in, e))
			return false;
		wanted = true;
	}
	in->last = e->position;
	in->delivered = e->position.lsn;
	in->events += wanted;
	return true;
}

static int look_up_stream(struct intake *in, const struct event *row, struct err *err)
{
	struct str number = store_rows_number(row), category, stream;
	struct arena arena = { 0 };
	int failed = see_transaction(in, err) ||
		     session_stream(in->session, row->rel, number, &arena, &category, &stream, err);

	if (!failed)
		store_rows_stream(&in->store_rows, row->rel->store, number, category, stream);
	arena_release(&arena);
	return failed ? -1 : 0;
}

/* A row of the event store: 1 when it is a domain event that somebody wants. */
static int take_store_row(struct intake *in, const struct event *row, struct event *e, struct err *err)
{
	struct relation *rel = &in->store_rows.domain.rel;
	enum store_row what;
	bool replan;

	what = store_rows_take(&in->store_rows, row, e, &replan);
	if (what == STORE_ROW_UNKNOWN_STREAM) {
		if (look_up_stream(in, row, err))
			return -1;
		what = store_rows_take(&in->store_rows, row, e, &replan);
	}
	if (what != STORE_ROW_EVENT)
		return 0;
	if (replan && plan_relation(in, rel, err))
		return -1;
	return rel->wanted & ACTION_BIT(ACTION_EVENT) ? 1 : 0;
}

static bool limit_reached(const struct intake *in)
{
	return in->limit && in->events >= in->limit;
}

static int on_event(void *user, const struct event *e, struct err *err)
{
	struct intake *in = user;
	bool begin = e->action == ACTION_BEGIN, commit = e->action == ACTION_COMMIT;
	struct event domain;
	int taken;

	if (in->done)
		return 0;
	if (e->rel && e->rel->store) {
		taken = take_store_row(in, e, &domain, err);
		if (taken <= 0)
			return taken;
		e = &domain;
	}
	if (begin ? in->until && e->position.lsn >= in->until : !commit && limit_reached(in))
		in->done = true;
	else if (begin || commit ? e->position.lsn < in->last.lsn
				 : position_cmp(e->position, in->last) <= 0)
		return 0; /* handed on before the connection was lost */
	else
		in->done = !hand_on(in, e);
	return 0;
}

static int on_commit(void *user, uint64_t end_lsn, struct err *err)
{
	struct intake *in = user;

	if (in->done) /* the transaction was not handed on to its end */
		return 0;
	fanout_given(&in->outputs, in->given);
	checkpoint_push(&in->checkpoint, end_lsn, in->given);
	in->done = (in->until && end_lsn >= in->until) || limit_reached(in);
	return 0;
}

static const struct decoder_ops decoder_ops = { on_relation, on_event, on_commit, on_retype };

void intake_init(struct intake *in, const struct source *source)
{
	decoder_init(&in->decoder, source, &decoder_ops, in);
}

void intake_release(struct intake *in)
{
	decoder_release(&in->decoder);
	store_rows_release(&in->store_rows);
	checkpoint_release(&in->checkpoint);
	later_release(&in->later);
}

void intake_acknowledge(struct intake *in, struct position p)
{
	in->taken[in->outputs.n] += later_take(&in->later, p);
}

bool intake_all_taken(struct intake *in)
{
	fanout_given(&in->outputs, in->given);
	for (size_t i = 0; i <= in->outputs.n; i++)
		if (in->taken[i] < in->given[i])
			return false;
	return true;
}

int intake_start_outputs(struct intake *in, const struct settings *s, int progress, struct err *err)
{
	if (fanout_start(&in->outputs, s, in->source, progress, err))
		return -1;
	checkpoint_init(&in->checkpoint, in->outputs.n + 1);
	in->outputs_started = true;
	return 0;
}

void intake_stop_outputs(struct intake *in)
{
	fanout_close(&in->outputs);
	domain_forget(&in->store_rows.domain);
	in->outputs_started = false;
	checkpoint_release(&in->checkpoint);
	memset(in->given, 0, sizeof(in->given));
	memset(in->taken, 0, sizeof(in->taken));
	later_clear(&in->later);
	in->last = (struct position){ 0 };
}

struct replan {
	struct intake *in;
	struct err *err;
	int failed;
};

static void replan(void *user, struct relation *rel)
{
	struct replan *r = user;

	if (!r->failed && !rel->store)
		r->failed = plan_relation(r->in, rel, r->err);
}

int intake_replan(struct intake *in, struct err *err)
{
	struct replan plan = { in, err, 0 };

	decoder_each_relation(&in->decoder, replan, &plan);
	return plan.failed;
}
