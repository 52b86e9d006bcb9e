#include "files/cuts.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "files/format.h"

/* A piece of the marks, the newest that was read. */
struct Marks {
  ReadMarks *read;
  void *context;
  uint64_t tokens, first;
  size_t count;
  unsigned char piece[1 << 13];
};

static unsigned mark_at(struct Marks *m, uint64_t at) {
  if (at < m->first || at - m->first >= m->count) {
    const uint64_t left = m->tokens - at;
    m->first = at;
    m->count = left < sizeof m->piece ? (size_t)left : sizeof m->piece;
    m->read(m->context, at, m->count, m->piece);
  }
  return m->piece[at - m->first];
}

/* The window that begins at p. */
static struct Cut cut_at(struct Marks *m, uint64_t p, size_t T) {
  const uint64_t last = m->tokens - 1;
  const uint32_t most = last - p < T ? (uint32_t)(last - p) : (uint32_t)T;
  struct Cut conversation = {.start = p}, turn = conversation, all = conversation;
  while (all.length < most) {
    const unsigned mark = mark_at(m, p + ++all.length);
    all.counted += mark & MASK_COUNTS;
    if (mark & MASK_CONVERSATION) conversation = all;
    if (mark & MASK_TURN) turn = all;
  }
  if (p + most == last) return all;
  return conversation.length > 0 ? conversation : turn.length > 0 ? turn : all;
}

/* Gives a full table twice the room, and returns it. */
static size_t grow(struct Cuts *cuts) {
  const size_t room = cuts->count > 0 ? 2 * (size_t)cuts->count : 1024;
  struct Cut *items = calloc(room, sizeof *items);
  if (items == NULL) die(EXIT_BAD_DATA, "no memory for a table of %zu windows", room);
  if (cuts->count > 0) memcpy(items, cuts->items, cuts->count * sizeof *items);
  free(cuts->items);
  cuts->items = items;
  return room;
}

void cuts_make(struct Cuts *cuts, uint64_t tokens, size_t T, ReadMarks *read, void *context) {
  struct Marks marks = {.read = read, .context = context, .tokens = tokens};
  size_t room = 0;
  *cuts = (struct Cuts){0};
  for (uint64_t p = 0; p < tokens - 1;) {
    if (cuts->count == room) room = grow(cuts);
    const struct Cut cut = cut_at(&marks, p, T);
    if (cut.counted > 0) cuts->items[cuts->count++] = cut;
    p += cut.length;
  }
}

void cuts_free(struct Cuts *cuts) {
  free(cuts->items);
  *cuts = (struct Cuts){0};
}
