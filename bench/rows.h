/* pgoutput messages of inserted rows, as the server sends them; for the benches. */
#ifndef PGHERALD_ROWS_H
#define PGHERALD_ROWS_H

#include "../tests/unit/wire.h"

#include <stdarg.h>
#include <stdio.h>

struct rows_column {
	const char *name;
	uint32_t type;
};

static inline void rows_relation(struct strbuf *b, const struct rows_column *columns, uint16_t n)
{
	wire_u8(b, 'R');
	wire_u32(b, 16384);
	wire_z(b, "public");
	wire_z(b, "bench");
	wire_u8(b, 'd');
	wire_u16(b, n);
	for (uint16_t i = 0; i < n; i++) {
		wire_u8(b, i == 0);
		wire_z(b, columns[i].name);
		wire_u32(b, columns[i].type);
		wire_u32(b, UINT32_MAX);
	}
}

/* Begins an insert; the values follow. */
static inline void rows_insert(struct strbuf *b, uint16_t ncolumns)
{
	wire_row(b, 'I', 16384);
	wire_u8(b, 'N');
	wire_u16(b, ncolumns);
}

__attribute__((format(printf, 2, 3))) static inline void rows_value(struct strbuf *b,
								    const char *fmt, ...)
{
	char text[128];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	wire_u8(b, 't');
	wire_u32(b, (uint32_t)strlen(text));
	strbuf_add(b, text, strlen(text));
}

#endif
