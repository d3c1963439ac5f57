#include "decode/decoder.h"

#include "base/json.h"
#include "base/utf8.h"
#include "decode/binary.h"

#include <stdlib.h>

struct cached {
	struct relation rel;
	struct arena arena; /* all that rel points to */
};

void decoder_init(struct decoder *d, const struct source *source, const struct decoder_ops *ops,
		  void *user)
{
	*d = (struct decoder){ .ops = ops, .user = user, .event.source = source };
}

static void cached_free(struct cached *c)
{
	if (!c)
		return;
	free(c->rel.output_wants);
	types_release(&c->rel.types);
	arena_release(&c->arena);
	free(c);
}

void decoder_reset(struct decoder *d)
{
	for (uint32_t i = 0; i < d->nslots; i++)
		cached_free(d->slots[i]);
	free(d->slots);
	d->slots = NULL;
	d->nslots = d->ncached = 0;
	d->in_transaction = false;
	d->parser.in_stream = false;
	d->event = (struct event){ .source = d->event.source };
}

void decoder_release(struct decoder *d)
{
	decoder_reset(d);
	pgoutput_release(&d->parser);
	strbuf_release(&d->origin);
	strbuf_release(&d->scratch);
}

static struct cached **slot(struct decoder *d, uint32_t oid)
{
	uint32_t i = oid * 2654435761u & (d->nslots - 1);

	while (d->slots[i] && d->slots[i]->rel.oid != oid)
		i = (i + 1) & (d->nslots - 1);
	return &d->slots[i];
}

static void grow(struct decoder *d)
{
	struct cached **old = d->slots;
	uint32_t n = d->nslots;

	d->nslots = n ? n * 2 : 64;
	d->slots = mem_array(d->nslots, sizeof(struct cached *));
	for (uint32_t i = 0; i < n; i++)
		if (old[i])
			*slot(d, old[i]->rel.oid) = old[i];
	free(old);
}

void decoder_each_relation(struct decoder *d, void (*fn)(void *user, struct relation *rel), void *user)
{
	for (uint32_t i = 0; i < d->nslots; i++)
		if (d->slots[i])
			fn(user, &d->slots[i]->rel);
}

static struct str keep(struct decoder *d, struct arena *a, struct str s)
{
	if (d->check_utf8 && !utf8_valid(s)) {
		d->scratch.n = 0;
		utf8_replace(&d->scratch, s);
		s = strbuf_view(&d->scratch);
	}
	return (struct str){ arena_copy(a, s.p, s.n), s.n };
}

/* The column's JSON key, escaped once: "name": */
static struct str json_key(struct decoder *d, struct arena *a, struct str name)
{
	d->scratch.n = 0;
	json_string(&d->scratch, name);
	strbuf_ch(&d->scratch, ':');
	return (struct str){ arena_copy(a, d->scratch.p, d->scratch.n), d->scratch.n };
}

static void fill_relation(struct decoder *d, struct cached *c, const struct pgoutput_message *m)
{
	struct relation *rel = &c->rel;

	rel->oid = m->oid;
	rel->identity = m->identity;
	rel->schema = m->schema.n ? keep(d, &c->arena, m->schema) : STR("pg_catalog");
	rel->name = keep(d, &c->arena, m->name);
	rel->ncols = m->n;
	rel->cols = arena_alloc(&c->arena, (m->n ? m->n : 1) * sizeof(struct column));
	for (uint32_t i = 0; i < m->n; i++) {
		const struct pgoutput_column *in = &m->cols[i];
		const struct type *type = type_builtin(in->type);
		struct column *col = &rel->cols[i];

		col->field.name = keep(d, &c->arena, in->name);
		col->field.key = json_key(d, &c->arena, col->field.name);
		col->field.type = type ? type : &type_unknown;
		col->type_name = col->field.type->name;
		col->type_oid = in->type;
		col->typmod = in->typmod;
		col->key = in->key;
		col->primary = in->key && m->identity != 'f';
	}
}

static int on_relation(struct decoder *d, const struct pgoutput_message *m, struct err *err)
{
	struct cached *c = mem_alloc(sizeof(*c));
	struct cached **at;

	fill_relation(d, c, m);
	if (d->ops->relation(d->user, &c->rel, &c->arena, err)) {
		cached_free(c);
		return -1;
	}
	for (uint32_t i = 0; i < c->rel.ncols; i++)
		c->rel.nprimary += c->rel.cols[i].primary;
	if (d->ncached * 2 >= d->nslots)
		grow(d);
	at = slot(d, m->oid);
	d->ncached += *at == NULL;
	cached_free(*at);
	*at = c;
	return 0;
}

static struct relation *find(struct decoder *d, uint32_t oid, struct err *err)
{
	struct cached *c = d->nslots ? *slot(d, oid) : NULL;

	if (!c) {
		err_set(err, ERR_FAIL, "a change came for relation %u before its description", oid);
		return NULL;
	}
	return &c->rel;
}

/* Makes one value text that everybody may read. Until `settle` is done its p holds an offset into
 * the scratch buffer, because the buffer may move. */
static int convert(struct decoder *d, const struct column *col, struct value *v, struct err *err)
{
	size_t at = d->scratch.n;

	if (v->kind == VALUE_TEXT) {
		utf8_replace(&d->scratch, value_str(v));
	} else if (binary_text(col->field.type, value_str(v), &d->scratch)) {
		d->binary_refused = true;
		return err_set(err, ERR_RETRY,
			       "column \"%.*s\" of type %.*s has no known binary form",
			       STR_ARG(col->field.name), STR_ARG(col->type_name));
	}
	v->p = (const char *)at;
	v->n = (uint32_t)(d->scratch.n - at);
	v->kind = VALUE_TEXT;
	return 0;
}

static bool needs_convert(const struct decoder *d, const struct value *v)
{
	return v->kind == VALUE_BINARY ||
	       (d->check_utf8 && v->kind == VALUE_TEXT && !utf8_valid(value_str(v)));
}

/* Converts what needs it among the n values of one message: binary ones, and text that the server
 * does not vouch for. */
static int settle(struct decoder *d, const struct relation *rel, uint32_t n, struct err *err)
{
	bool moved[2 * PGOUTPUT_MAX_COLUMNS];
	struct value *v = d->parser.values;

	d->scratch.n = 0;
	for (uint32_t i = 0; i < n; i++) {
		moved[i] = needs_convert(d, &v[i]);
		if (moved[i] && convert(d, &rel->cols[i % rel->ncols], &v[i], err))
			return -1;
	}
	for (uint32_t i = 0; i < n; i++)
		if (moved[i])
			v[i].p = d->scratch.p + (uintptr_t)v[i].p;
	return 0;
}

/* An unchanged TOAST value is in the old row when that is whole. */
static void fill_unchanged(struct decoder *d, uint32_t ncols)
{
	struct value *old = d->parser.values, *new = old + ncols;

	for (uint32_t i = 0; i < ncols; i++)
		if (new[i].kind == VALUE_UNCHANGED)
			new[i] = old[i];
}

static struct event *next_event(struct decoder *d, enum action action, uint64_t lsn)
{
	struct event *e = &d->event;

	e->action = action;
	e->position.ordinal++;
	e->lsn = lsn;
	e->rel = NULL;
	e->new = e->old = NULL;
	e->old_full = false;
	return e;
}

static int outside(const struct pgoutput_message *m, struct err *err)
{
	return err_set(err, ERR_FAIL, "pgoutput message '%c' came outside of a transaction", m->kind);
}

static int on_row(struct decoder *d, uint64_t lsn, const struct pgoutput_message *m, struct err *err)
{
	static const enum action actions[128] = {
		['I'] = ACTION_INSERT, ['U'] = ACTION_UPDATE, ['D'] = ACTION_DELETE
	};
	struct relation *rel = find(d, m->oid, err);
	struct event *e;

	if (!rel)
		return -1;
	if (!d->in_transaction)
		return outside(m, err);
	if (m->ncols != rel->ncols)
		return err_set(err, ERR_FAIL, "a row of %.*s.%.*s came with %u columns instead of %u",
			       STR_ARG(rel->schema), STR_ARG(rel->name), m->ncols, rel->ncols);
	e = next_event(d, actions[(int)m->kind], lsn);
	if (!(rel->wanted & ACTION_BIT(e->action)))
		return 0;
	if (rel->types.composite && d->ops->retype(d->user, rel, err))
		return -1;
	if ((d->check_utf8 || d->binary) &&
	    settle(d, rel, m->ncols * ((m->old != NULL) + (m->new != NULL)), err))
		return err_add(err, "%.*s.%.*s", STR_ARG(rel->schema), STR_ARG(rel->name));
	e->rel = rel;
	e->new = m->new;
	e->old = m->old;
	e->old_full = m->old_kind == 'O';
	if (e->old_full && e->new)
		fill_unchanged(d, rel->ncols);
	return d->ops->event(d->user, e, err);
}

static int on_truncate(struct decoder *d, uint64_t lsn, const struct pgoutput_message *m,
		       struct err *err)
{
	if (!d->in_transaction)
		return outside(m, err);
	for (uint32_t i = 0; i < m->n; i++) {
		struct relation *rel = find(d, m->oids[i], err);
		struct event *e;

		if (!rel)
			return -1;
		e = next_event(d, ACTION_TRUNCATE, lsn);
		if (!(rel->wanted & ACTION_BIT(ACTION_TRUNCATE)))
			continue;
		e->rel = rel;
		e->cascade = m->flags & 1;
		e->restart_identity = m->flags & 2;
		if (d->ops->event(d->user, e, err))
			return -1;
	}
	return 0;
}

static int on_message(struct decoder *d, int64_t sent_at, const struct pgoutput_message *m,
		      struct err *err)
{
	struct event alone = { .action = ACTION_MESSAGE,
			       .position.lsn = m->lsn,
			       .lsn = m->lsn,
			       .time = sent_at,
			       .source = d->event.source };
	struct event *e = &alone;

	if (m->flags & 1) {
		if (!d->in_transaction)
			return outside(m, err);
		e = next_event(d, ACTION_MESSAGE, m->lsn);
	}
	e->transactional = m->flags & 1;
	e->prefix = m->name;
	e->content = m->content;
	if (d->ops->event(d->user, e, err))
		return -1;
	return d->in_transaction ? 0 : d->ops->commit(d->user, m->lsn, err);
}

static int on_begin(struct decoder *d, const struct pgoutput_message *m, struct err *err)
{
	struct event *e = &d->event;

	if (d->in_transaction)
		return err_set(err, ERR_FAIL, "a transaction began inside of another");
	*e = (struct event){ .source = e->source,
			     .position.lsn = m->lsn,
			     .time = m->time,
			     .xid = m->xid,
			     .lsn = m->lsn,
			     .action = ACTION_BEGIN };
	d->in_transaction = true;
	return d->ops->event(d->user, e, err);
}

static int on_commit(struct decoder *d, const struct pgoutput_message *m, struct err *err)
{
	struct event *e;

	if (!d->in_transaction)
		return outside(m, err);
	e = next_event(d, ACTION_COMMIT, m->lsn);
	e->commit_end = m->end_lsn;
	d->in_transaction = false;
	if (d->ops->event(d->user, e, err))
		return -1;
	return d->ops->commit(d->user, m->end_lsn, err);
}

int decoder_message(struct decoder *d, uint64_t wal_start, int64_t sent_at, struct str bytes,
		    struct err *err)
{
	struct pgoutput_message m;

	if (pgoutput_parse(&d->parser, bytes, &m, err))
		return -1;
	switch (m.kind) {
	case 'I':
	case 'U':
	case 'D':
		return on_row(d, wal_start, &m, err);
	case 'B':
		return on_begin(d, &m, err);
	case 'C':
		return on_commit(d, &m, err);
	case 'R':
		return on_relation(d, &m, err);
	case 'T':
		return on_truncate(d, wal_start, &m, err);
	case 'M':
		return on_message(d, sent_at, &m, err);
	case 'O':
		d->origin.n = 0;
		strbuf_str(&d->origin, m.name);
		d->event.origin = strbuf_view(&d->origin);
		return 0;
	case 'Y': /* each Relation message looks its types up anew */
	case 'A': /* some servers send an abort for a transaction that was never shown */
		return 0;
	default:
		return err_set(err, ERR_FAIL,
			       "pgoutput message '%c' belongs to a mode that was not asked for",
			       m.kind);
	}
}
