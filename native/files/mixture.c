#include "files/mixture.h"

#include <stdlib.h>

#include "base/util.h"

/* ---- weights -------------------------------------------------------------------------------------- */

static void read_weights(struct Mixture *m, const char *text) {
  const char *at = text;
  for (size_t i = 0; i < m->count; i++) {
    char *end = NULL;
    m->weights[i] = at == NULL ? 1 : *at >= '0' && *at <= '9' ? strtoull(at, &end, 10) : 0;
    if (at != NULL && (m->weights[i] == 0 || *end != (i + 1 < m->count ? ',' : '\0'))) {
      die(EXIT_USAGE, "weights are whole numbers from 1 on, one for each of %zu texts, such as 3,1; not '%s'", m->count,
          text);
    }
    if (m->weights[i] > UINT32_MAX - m->weight) die(EXIT_USAGE, "the weights %s add up to 2^32 or more", text);
    m->weight += m->weights[i];
    if (at != NULL) at = end + 1;
  }
}

/* ---- which part gives a row ----------------------------------------------------------------------- */

static void set_turn(const struct Mixture *m, size_t part, struct Turn *turn) {
  const uint64_t w = m->weights[part];
  turn->from = turn->given * m->weight / w;
  turn->until = ((turn->given + 1) * m->weight + w - 1) / w;
}

static void begin_round(const struct Mixture *m, struct Cursor *cursor, uint64_t round) {
  cursor->round = round, cursor->row = 0;
  for (size_t i = 0; i < m->count; i++) {
    cursor->turns[i].given = 0;
    set_turn(m, i, &cursor->turns[i]);
  }
}

/* The part that gives the cursor's row, and goes on to the next row. */
static size_t take_row(const struct Mixture *m, struct Cursor *cursor, uint64_t *visit) {
  size_t part = m->count;
  for (size_t i = 0; i < m->count; i++) {
    const struct Turn *turn = &cursor->turns[i];
    if (turn->from <= cursor->row && (part == m->count || turn->until < cursor->turns[part].until)) part = i;
  }
  struct Turn *turn = &cursor->turns[part];
  *visit = cursor->round * m->weights[part] + turn->given;
  turn->given++;
  set_turn(m, part, turn);
  if (++cursor->row == m->weight) begin_round(m, cursor, cursor->round + 1);
  return part;
}

static void seek(struct Mixture *m, uint64_t row) {
  struct Cursor *cursor = &m->cursor;
  const uint64_t round = row / m->weight, within = row % m->weight;
  uint64_t visit;
  if (cursor->round != round || cursor->row > within) begin_round(m, cursor, round);
  while (cursor->row < within) take_row(m, cursor, &visit);
}

size_t mixture_row(struct Mixture *m, uint64_t row, uint64_t *visit) {
  seek(m, row);
  struct Cursor at = m->cursor;
  return take_row(m, &at, visit);
}

uint64_t mixture_share(const struct Mixture *m, size_t part, uint64_t tokens) {
  const uint64_t w = m->weights[part], W = m->weight;
  return tokens / W * w + (tokens % W * w + W - 1) / W;
}

/* ---- tokens --------------------------------------------------------------------------------------- */

void mixture_open(struct Mixture *m, const struct ArgList *paths, const char *weights, size_t V) {
  *m = (struct Mixture){.count = paths->count};
  m->parts = calloc(m->count, sizeof *m->parts);
  if (m->parts == NULL) die(EXIT_BAD_DATA, "no memory for a table of %zu texts", m->count);
  read_weights(m, weights);
  for (size_t i = 0; i < m->count; i++) {
    struct DataLoader *part = &m->parts[i];
    dataloader_open(part, paths->items[i], 1, 1, V);
    part->places = size_max(OPEN_SHARDS / m->count, 1);
    if (part->width != m->parts[0].width) {
      die(EXIT_BAD_DATA, "%s holds tokens of %zu bytes, %s of %zu: they are of different tokenizers; mix texts of one",
          part->path, part->width, m->parts[0].path, m->parts[0].width);
    }
  }
  begin_round(m, &m->cursor, 0);
}

void mixture_check_rows(const struct Mixture *m) {
  for (size_t i = 0; m->count > 1 && i < m->count; i++) {
    if (m->parts[i].count > m->T) continue;
    die(EXIT_BAD_DATA, "%s holds %llu tokens, less than a row of %zu and the token after it; use a smaller --seq-len, or "
        "leave it out", m->parts[i].path, (unsigned long long)m->parts[i].count, m->T);
  }
}

void mixture_cut(struct Mixture *m) {
  for (size_t i = 0; i < m->count; i++) {
    m->parts[i].aligned = m->aligned, m->parts[i].eot = m->eot;
    dataloader_cut(&m->parts[i], m->T);
  }
}

bool mixture_is_cut(const struct Mixture *m) {
  bool cut = false;
  for (size_t i = 0; i < m->count; i++) cut |= m->parts[i].cuts.items != NULL;
  return cut;
}

void mixture_layout(struct Mixture *m, struct Arena *arena) {
  m->buffer = arena_alloc(arena, m->B * m->T + 1, m->parts[0].width);
  if (mixture_is_cut(m)) m->marks = arena_alloc(arena, m->T, 1);
}

/* Part i with the mixture's settings. Its seed is output number i of SplitMix64, seeded with the mixture's. */
static struct DataLoader *part_of(struct Mixture *m, size_t i) {
  struct DataLoader *part = &m->parts[i];
  part->T = m->T, part->buffer = m->buffer, part->marks = m->marks;
  part->shuffle = m->shuffle, part->whole = m->whole;
  part->seed = m->seed + i * 0x9E3779B97F4A7C15;
  return part;
}

uint64_t mixture_epoch(struct Mixture *m) {
  uint64_t most = 0;
  for (size_t i = 0; i < m->count; i++) {
    const uint64_t windows = dataloader_windows(part_of(m, i)), w = m->weights[i];
    uint64_t rows;  // windows · W / w, rounded up
    if (__builtin_mul_overflow(windows / w, m->weight, &rows)) return UINT64_MAX;
    rows += (windows % w * m->weight + w - 1) / w;
    if (rows > most) most = rows;
  }
  return most;
}

void mixture_batch(struct Mixture *m, size_t step, int *tokens, int *targets) {
  seek(m, (uint64_t)step * m->B);
  struct Cursor at = m->cursor;
  for (size_t b = 0; b < m->B; b++) {
    uint64_t visit;
    const size_t part = take_row(m, &at, &visit);
    dataloader_window(part_of(m, part), visit, tokens + b * m->T, targets + b * m->T);
  }
}

uint64_t mixture_counted(struct Mixture *m, uint64_t first, uint64_t rows) {
  if (!mixture_is_cut(m)) return rows * m->T;
  seek(m, first);
  struct Cursor at = m->cursor;
  uint64_t counted = 0, visit;
  for (uint64_t row = 0; row < rows; row++) {
    const size_t part = take_row(m, &at, &visit);
    counted += dataloader_counted(part_of(m, part), visit);
  }
  return counted;
}

void mixture_run(struct Mixture *m, size_t part, struct Window window, int *tokens, int *targets) {
  struct DataLoader *loader = part_of(m, part);
  dataloader_run(loader, window.start, window.length, tokens, targets);
  dataloader_uncount(loader, window, targets);
}

void mixture_close(struct Mixture *m) {
  for (size_t i = 0; i < m->count; i++) dataloader_close(&m->parts[i]);
  free(m->parts);
  *m = (struct Mixture){0};
}
