/*
 * The messages of the pgoutput plugin, protocol versions 1 to 4, taken apart. Pure: bytes in, one
 * struct out that borrows from them.
 *
 * Source: PostgreSQL documentation, "Logical Replication Message Formats". Integers are in network
 * byte order, Z is a NUL-terminated string, [xid] is there only between Stream Start and Stop:
 *
 *   B Begin      lsn8 time8 xid4            C Commit     flags1 lsn8 end8 time8
 *   O Origin     lsn8 nameZ                 M Message    [xid] flags1 lsn8 prefixZ n4 bytes
 *   R Relation   [xid] oid4 schemaZ nameZ identity1 n2 { flags1 nameZ type4 typmod4 }
 *   Y Type       [xid] oid4 schemaZ nameZ
 *   I Insert     [xid] oid4 'N' tuple
 *   U Update     [xid] oid4 [ 'K' | 'O' tuple ] 'N' tuple
 *   D Delete     [xid] oid4 'K' | 'O' tuple
 *   T Truncate   [xid] n4 flags1 { oid4 }
 *   tuple:       n2 { 'n' | 'u' | 't' n4 bytes | 'b' n4 bytes }
 *   S Stream Start xid4 first1              E Stream Stop
 *   c Stream Commit xid4 flags1 lsn8 end8 time8
 *   A Stream Abort  xid4 subxid4 [ lsn8 time8 ]
 *   b Begin Prepare lsn8 end8 time8 xid4 gidZ
 *   P Prepare, p Stream Prepare flags1 lsn8 end8 time8 xid4 gidZ
 *   K Commit Prepared  flags1 lsn8 end8 time8 xid4 gidZ
 *   r Rollback Prepared flags1 prepare_end8 end8 prepare_time8 time8 xid4 gidZ
 */
#ifndef PGHERALD_PGOUTPUT_H
#define PGHERALD_PGOUTPUT_H

#include "base/cursor.h"
#include "base/err.h"
#include "event/event.h"

/* The most columns a table can have is 1600; PostgreSQL's own limit for a tuple is this. */
#define PGOUTPUT_MAX_COLUMNS 1664

struct pgoutput_column {
	bool key;
	struct str name;
	uint32_t type;
	int32_t typmod;
};

struct pgoutput_message {
	char kind;    /* the letter on the wire */
	uint32_t xid; /* of the transaction, or of the subtransaction inside a stream block */
	uint32_t subxid;
	uint64_t lsn;
	uint64_t end_lsn;
	int64_t time; /* microseconds since 1970 */
	uint8_t flags;
	struct str gid;

	uint32_t oid; /* relation or type */
	struct str schema;
	struct str name; /* relation, type, origin; a message's prefix */
	char identity;
	uint32_t n; /* columns of a relation, relations of a truncate */
	const struct pgoutput_column *cols;
	const uint32_t *oids;

	uint32_t ncols;          /* of new and old */
	const struct value *new; /* NULL: none */
	const struct value *old;
	char old_kind; /* 'K' key, 'O' all; 0: none */

	struct str content;
};

/* What one message needs from those before it, and room for its parts. Zeroed: ready. */
struct pgoutput {
	bool in_stream; /* between Stream Start and Stream Stop */
	struct value *values;
	uint32_t nvalues;
	struct pgoutput_column *cols;
	uint32_t ncols;
	uint32_t *oids;
	uint32_t noids;
};

/* Takes one message apart. m borrows from `bytes` and from p until the next call. Fails with
 * ERR_FAIL when the bytes are not such a message. */
int pgoutput_parse(struct pgoutput *p, struct str bytes, struct pgoutput_message *m,
		   struct err *err) MUST_CHECK;

void pgoutput_release(struct pgoutput *p);

#endif
