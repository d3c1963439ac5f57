/*
 * A UUID for an event, for formats that want one: version 8 of RFC 9562, made of the event's
 * position and its source alone, so that the same event always has the same UUID, replayed or not,
 * and two events of one source never share one. Text order is event order.
 *
 *    0                   1                   2                   3
 *    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 *   |                     LSN, bits 63 to 32                        |
 *   |      LSN, bits 31 to 16       |1 0 0 0|   LSN, bits 15 to 4   |
 *   |1 0| LSN 3-0 |              ordinal, bits 31 to 6              |
 *   | ord. 5-0  |                     source                        |
 *
 * LSN is that of the commit. 1 0 0 0 is the version, 1 0 the variant. The source's 26 bits are a
 * hash (FNV-1a of 64 bits, folded) of the cluster's system identifier, most significant byte first,
 * and the database's name. Within a cluster positions alone are unique; the hash keeps clusters
 * apart.
 */
#ifndef PGHERALD_UUID_H
#define PGHERALD_UUID_H

#include "event/event.h"

#define UUID_LEN 36

/* "00000000-0153-8a97-..."; not terminated. */
void uuid_print(const struct source *source, struct position p, char out[UUID_LEN]);

#endif
