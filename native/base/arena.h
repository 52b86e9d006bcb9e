/* One block of memory, laid out before the first step and never grown.
 *
 * The same layout code runs twice: first over an empty arena, which only measures and hands out NULL;
 * then, after arena_take, over the real block. So the size is known, and can be printed, before a
 * byte is taken.
 */
#ifndef LLMC_ARENA_H
#define LLMC_ARENA_H

#include <stddef.h>

struct Arena {
  char *base;    // NULL while measuring
  size_t size;   // bytes taken from the system
  size_t used;   // bytes handed out
};

enum { ARENA_ALIGNMENT = 64 };  // one cache line

/* Hands out count * size bytes, aligned to a cache line and zero; NULL while measuring. */
void *arena_alloc(struct Arena *arena, size_t count, size_t size);

/* Takes what was measured from the system, in huge pages where there are any, and starts again at the
 * front. Dies with EXIT_BAD_DATA where the system has not that much. */
void arena_take(struct Arena *arena);

/* Bytes that arena_take will take, or has taken: what was handed out, up to whole huge pages. */
size_t arena_footprint(const struct Arena *arena);

void arena_free(struct Arena *arena);

#endif
