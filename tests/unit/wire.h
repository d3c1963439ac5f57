/* Builds pgoutput messages for tests, field by field as the documentation lists them. */
#ifndef PGHERALD_WIRE_H
#define PGHERALD_WIRE_H

#include "base/strbuf.h"

#include <endian.h>

static inline void wire_u8(struct strbuf *b, int v)
{
	strbuf_ch(b, (char)v);
}

static inline void wire_u16(struct strbuf *b, uint16_t v)
{
	v = htobe16(v);
	strbuf_add(b, &v, 2);
}

static inline void wire_u32(struct strbuf *b, uint32_t v)
{
	v = htobe32(v);
	strbuf_add(b, &v, 4);
}

static inline void wire_u64(struct strbuf *b, uint64_t v)
{
	v = htobe64(v);
	strbuf_add(b, &v, 8);
}

static inline void wire_z(struct strbuf *b, const char *s)
{
	strbuf_add(b, s, strlen(s) + 1);
}

static inline void wire_begin(struct strbuf *b, uint64_t lsn, uint32_t xid)
{
	wire_u8(b, 'B');
	wire_u64(b, lsn);
	wire_u64(b, 0); /* 2000-01-01 */
	wire_u32(b, xid);
}

static inline void wire_commit(struct strbuf *b, uint64_t lsn, uint64_t end)
{
	wire_u8(b, 'C');
	wire_u8(b, 0);
	wire_u64(b, lsn);
	wire_u64(b, end);
	wire_u64(b, 0);
}

/* A table public.NAME(id int, body text) with this identity; flags: which columns are its key. */
static inline void wire_relation(struct strbuf *b, uint32_t oid, const char *name, char identity)
{
	wire_u8(b, 'R');
	wire_u32(b, oid);
	wire_z(b, "public");
	wire_z(b, name);
	wire_u8(b, identity);
	wire_u16(b, 2);
	wire_u8(b, identity != 'n');
	wire_z(b, "id");
	wire_u32(b, 23);
	wire_u32(b, UINT32_MAX);
	wire_u8(b, identity == 'f');
	wire_z(b, "body");
	wire_u32(b, 25);
	wire_u32(b, UINT32_MAX);
}

/* A tuple of texts; "\1" stands for unchanged, NULL for null. */
static inline void wire_tuple(struct strbuf *b, char part, const char *id, const char *body)
{
	const char *values[] = { id, body };

	wire_u8(b, part);
	wire_u16(b, 2);
	for (int i = 0; i < 2; i++) {
		if (!values[i]) {
			wire_u8(b, 'n');
		} else if (values[i][0] == '\1') {
			wire_u8(b, 'u');
		} else {
			wire_u8(b, 't');
			wire_u32(b, (uint32_t)strlen(values[i]));
			strbuf_add(b, values[i], strlen(values[i]));
		}
	}
}

static inline void wire_row(struct strbuf *b, char kind, uint32_t oid)
{
	wire_u8(b, kind);
	wire_u32(b, oid);
}

#endif
