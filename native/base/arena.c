#include "base/arena.h"

#include "base/pages.h"
#include "base/util.h"

enum { HUGE_PAGE = 2 << 20 };

void *arena_alloc(struct Arena *arena, size_t count, size_t size) {
  size_t bytes = round_up(size_product(count, size), ARENA_ALIGNMENT);
  size_t at = arena->used;
  if (__builtin_add_overflow(at, bytes, &arena->used)) {
    die(EXIT_BAD_DATA, "the model needs more memory than can be addressed; choose a smaller one");
  }
  if (arena->base == NULL) return NULL;
  if (arena->used > arena->size) die(EXIT_INTERNAL, "the arena was measured too small");
  return arena->base + at;
}

size_t arena_footprint(const struct Arena *arena) {
  return arena->base != NULL ? arena->size : round_up(arena->used, HUGE_PAGE);
}

void arena_take(struct Arena *arena) {
  const size_t size = arena_footprint(arena);
  void *base = pages_take(size);
  if (base == NULL) {
    die(EXIT_BAD_DATA, "the system has no %.2f GB of memory to give; use a smaller --batch-size, "
        "--seq-len or model", (double)size / 1e9);
  }
  *arena = (struct Arena){.base = base, .size = size, .used = 0};
}

void arena_free(struct Arena *arena) {
  if (arena->base != NULL) pages_free(arena->base, arena->size);
  *arena = (struct Arena){0};
}
