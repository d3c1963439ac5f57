/*
 * Allocation that does not fail: when memory runs out the process says so and aborts, because no
 * caller could go on in a better way and the replication slot makes a crash safe.
 */
#ifndef PGHERALD_MEM_H
#define PGHERALD_MEM_H

#include <stddef.h>

void mem_die(void) __attribute__((noreturn));
void *mem_alloc(size_t n) __attribute__((malloc));              /* zeroed */
void *mem_array(size_t n, size_t size) __attribute__((malloc)); /* zeroed, overflow checked */
void *mem_realloc(void *p, size_t n);
char *mem_strdup(const char *s) __attribute__((malloc));

/* Memory that is freed all at once. A zeroed struct is an empty arena. */
struct arena {
	struct arena_chunk *chunks;
	char *next;
	size_t left;
};

void *arena_alloc(struct arena *a, size_t n);               /* zeroed, aligned for any type */
char *arena_copy(struct arena *a, const char *p, size_t n); /* NUL-terminated copy */
void arena_release(struct arena *a);

#endif
