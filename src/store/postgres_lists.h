/* What the store in PostgreSQL tells of itself. */
#ifndef PGHERALD_STORE_POSTGRES_LISTS_H
#define PGHERALD_STORE_POSTGRES_LISTS_H

#include "store/store.h"

/* SQL for each list, with "herald" for the schema. $1 is the number of the last migration
 * (STORE_CHECK) or the name of a subscription (STORE_PARKED_LIST). */
extern const char *const postgres_lists[STORE_N_LISTS];

#endif
