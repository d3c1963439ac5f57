#include "decode/pgoutput.h"

#include <stdlib.h>

/* Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch. */
#define EPOCH_2000 INT64_C(946684800000000)

static int64_t take_time(struct cursor *c)
{
	return (int64_t)(cursor_u64(c) + (uint64_t)EPOCH_2000);
}

/* Makes room for n elements of an array that only grows. */
#define RESERVE(array, cap, n)                                                                     \
	do {                                                                                       \
		if ((n) > (cap)) {                                                                 \
			(array) = mem_realloc((array), (size_t)(n) * sizeof(*(array)));            \
			(cap) = (n);                                                               \
		}                                                                                  \
	} while (0)

static void parse_value(struct cursor *c, struct value *v)
{
	v->kind = cursor_u8(c);
	v->p = NULL;
	v->n = 0;
	if (v->kind == VALUE_TEXT || v->kind == VALUE_BINARY) {
		v->n = cursor_u32(c);
		v->p = cursor_take(c, v->n);
		if (!v->p)
			v->n = 0;
	} else if (v->kind != VALUE_NULL && v->kind != VALUE_UNCHANGED) {
		c->bad = true;
	}
}

/* A tuple into p->values from index `at` on; both tuples of an update are kept there. */
static uint32_t parse_tuple(struct pgoutput *p, struct cursor *c, uint32_t at)
{
	uint32_t n = cursor_u16(c);

	if (n > PGOUTPUT_MAX_COLUMNS || n > cursor_left(c)) {
		c->bad = true;
		return 0;
	}
	RESERVE(p->values, p->nvalues, at + n + 1); /* a row of no columns is a row */
	for (uint32_t i = 0; i < n; i++)
		parse_value(c, &p->values[at + i]);
	return n;
}

/* I, U and D: an optional old tuple and an optional new one. */
static void parse_row(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	char part;
	uint32_t nold = 0;

	m->oid = cursor_u32(c);
	part = (char)cursor_u8(c);
	if ((part == 'K' || part == 'O') && m->kind != 'I') {
		m->old_kind = part;
		m->ncols = nold = parse_tuple(p, c, 0);
		part = m->kind == 'U' ? (char)cursor_u8(c) : 0;
	}
	if (m->kind != 'D') {
		m->ncols = parse_tuple(p, c, nold);
		if (part != 'N' || (m->old_kind && m->ncols != nold))
			c->bad = true;
		if (!c->bad)
			m->new = p->values + nold;
	} else if (!m->old_kind) {
		c->bad = true;
	}
	if (m->old_kind)
		m->old = p->values;
}

static void parse_relation(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->oid = cursor_u32(c);
	m->schema = cursor_cstr(c);
	m->name = cursor_cstr(c);
	m->identity = (char)cursor_u8(c);
	m->n = cursor_u16(c);
	if (m->n > PGOUTPUT_MAX_COLUMNS) {
		c->bad = true;
		return;
	}
	RESERVE(p->cols, p->ncols, m->n);
	for (uint32_t i = 0; i < m->n; i++) {
		struct pgoutput_column *col = &p->cols[i];

		col->key = cursor_u8(c) & 1;
		col->name = cursor_cstr(c);
		col->type = cursor_u32(c);
		col->typmod = (int32_t)cursor_u32(c);
	}
	m->cols = p->cols;
}

static void parse_truncate(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->n = cursor_u32(c);
	m->flags = cursor_u8(c);
	if (m->n > cursor_left(c) / 4) {
		c->bad = true;
		return;
	}
	RESERVE(p->oids, p->noids, m->n);
	for (uint32_t i = 0; i < m->n; i++)
		p->oids[i] = cursor_u32(c);
	m->oids = p->oids;
}

static void parse_type(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->oid = cursor_u32(c);
	m->schema = cursor_cstr(c);
	m->name = cursor_cstr(c);
}

static void parse_message(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->flags = cursor_u8(c);
	m->lsn = cursor_u64(c);
	m->name = cursor_cstr(c);
	m->content = cursor_bytes(c, cursor_u32(c));
}

static void parse_begin(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->lsn = cursor_u64(c);
	m->time = take_time(c);
	m->xid = cursor_u32(c);
}

static void parse_commit(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->flags = cursor_u8(c);
	m->lsn = cursor_u64(c);
	m->end_lsn = cursor_u64(c);
	m->time = take_time(c);
}

static void parse_origin(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->lsn = cursor_u64(c);
	m->name = cursor_cstr(c);
}

static void parse_stream_start(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->xid = cursor_u32(c);
	m->flags = cursor_u8(c);
	p->in_stream = true;
}

static void parse_stream_stop(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	p->in_stream = false;
}

static void parse_stream_commit(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->xid = cursor_u32(c);
	parse_commit(p, c, m);
}

static void parse_stream_abort(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->xid = cursor_u32(c);
	m->subxid = cursor_u32(c);
	if (cursor_left(c)) { /* streaming=parallel */
		m->lsn = cursor_u64(c);
		m->time = take_time(c);
	}
}

static void parse_begin_prepare(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->lsn = cursor_u64(c);
	m->end_lsn = cursor_u64(c);
	m->time = take_time(c);
	m->xid = cursor_u32(c);
	m->gid = cursor_cstr(c);
}

static void parse_prepare(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->flags = cursor_u8(c);
	parse_begin_prepare(p, c, m);
}

static void parse_rollback_prepared(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m)
{
	m->flags = cursor_u8(c);
	m->lsn = cursor_u64(c);
	m->end_lsn = cursor_u64(c);
	take_time(c); /* when it was prepared */
	m->time = take_time(c);
	m->xid = cursor_u32(c);
	m->gid = cursor_cstr(c);
}

static const struct {
	void (*parse)(struct pgoutput *p, struct cursor *c, struct pgoutput_message *m);
	bool in_stream; /* carries an xid inside a stream block */
} kinds[128] = {
	['B'] = { parse_begin },
	['C'] = { parse_commit },
	['O'] = { parse_origin },
	['R'] = { parse_relation, true },
	['Y'] = { parse_type, true },
	['I'] = { parse_row, true },
	['U'] = { parse_row, true },
	['D'] = { parse_row, true },
	['T'] = { parse_truncate, true },
	['M'] = { parse_message, true },
	['S'] = { parse_stream_start },
	['E'] = { parse_stream_stop },
	['c'] = { parse_stream_commit },
	['A'] = { parse_stream_abort },
	['b'] = { parse_begin_prepare },
	['P'] = { parse_prepare },
	['p'] = { parse_prepare },
	['K'] = { parse_prepare },
	['r'] = { parse_rollback_prepared },
};

int pgoutput_parse(struct pgoutput *p, struct str bytes, struct pgoutput_message *m, struct err *err)
{
	struct cursor c = cursor_over(bytes);
	uint8_t kind = cursor_u8(&c);

	*m = (struct pgoutput_message){ .kind = (char)kind };
	if (kind >= 128 || !kinds[kind].parse)
		return err_set(err, ERR_FAIL, "unknown pgoutput message 0x%02x of %zu bytes", kind,
			       bytes.n);
	if (p->in_stream && kinds[kind].in_stream)
		m->xid = cursor_u32(&c);
	kinds[kind].parse(p, &c, m);
	if (c.bad || cursor_left(&c))
		return err_set(err, ERR_FAIL, "pgoutput message '%c' of %zu bytes is %s", kind,
			       bytes.n, c.bad ? "cut short or malformed" : "too long");
	return 0;
}

void pgoutput_release(struct pgoutput *p)
{
	free(p->values);
	free(p->cols);
	free(p->oids);
	*p = (struct pgoutput){ 0 };
}
