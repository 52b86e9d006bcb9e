/* Packing for AMX: a factor of a product rewritten as rows of tiles, of 1 KB each.
 *
 * A panel holds 32 lanes; each step of 32 numbers of K is [part][2 tiles][16 rows][16 words of two BF16]. In a left
 * tile a row is a lane and its words run along K. In a right tile a row is a pair of neighbours in K and its words run
 * along the lanes. Lanes and numbers past the end are zero.
 *
 * Parts: a float is cut into BF16 that add up to it. One part: BF16 itself. Three parts, of eight bits each, hold all 24
 * bits of a float. The first is cut off, so that the rest is exact and nothing finite overflows; the others are rounded.
 */

enum {
  PANEL = 2 * TILE_ROWS,               // lanes
  PANEL_STEP = 2 * TILE_WORDS,         // numbers of K
  PANEL_TILE = TILE_ROWS * TILE_WORDS  // words
};

/* Scratch memory is aligned to floats alone. */
typedef int32_t vi_unaligned __attribute__((vector_size(4 * VL), aligned(4), may_alias));

/* Words of a panel of kc numbers. */
INLINE size_t panel_words(size_t kc, const int parts) {
  return ceil_div(kc, PANEL_STEP) * (size_t)parts * 2 * PANEL_TILE;
}

/* Sixteen rows of sixteen words, turned. */
INLINE void transpose16(vi row[16]) {
  vi two[16], four[16], eight[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    two[i] = SHUFFLE(vi, row[i], row[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    two[i + 1] = SHUFFLE(vi, row[i], row[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      const vi a = two[i + j], b = two[i + j + 2];
      four[i + 2 * j] = SHUFFLE(vi, a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      four[i + 2 * j + 1] = SHUFFLE(vi, a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
#define EVEN_FOURS 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define ODD_FOURS 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
#pragma GCC unroll 2
    for (int j = 0; j < 16; j += 8) {
      eight[i + j] = SHUFFLE(vi, four[i + j], four[i + j + 4], EVEN_FOURS);
      eight[i + j + 4] = SHUFFLE(vi, four[i + j], four[i + j + 4], ODD_FOURS);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    row[i] = SHUFFLE(vi, eight[i], eight[i + 8], EVEN_FOURS);
    row[i + 8] = SHUFFLE(vi, eight[i], eight[i + 8], ODD_FOURS);
  }
#undef EVEN_FOURS
#undef ODD_FOURS
}

/* Words of 32 floats in order, rounded to BF16: each holds two neighbours. */
INLINE vi words_along(vf first, vf second) {
#if defined(__AVX512BF16__)
  return (vi)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
#else
  vi words = {0};
  const struct Array to = {&words, BF16};
  vstore_array(to, 0, first), vstore_array(to, VL, second);
  return words;
#endif
}

/* The lower and the upper sixteen of 32 BF16, as words of one of each. */
INLINE vi words_paired(vi halves) {
  typedef uint16_t half __attribute__((vector_size(4 * VL)));
  const half x = (half)halves;
  return (vi)SHUFFLE(half, x, x, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27,
                     12, 28, 13, 29, 14, 30, 15, 31);
}

/* The upper 16 bits of floats: cut off, or rounded, where ties may go either way. */
INLINE vf upper_cut(vf x) { return (vf)((vi)x & -0x10000); }
INLINE vf upper_rounded(vf x) { return (vf)(((vi)x + 0x8000) & -0x10000); }

/* The largest magnitude that packing has met; a NaN counts as more than everything else. */
struct Range {
  vi most;  // bits of a float without its sign, whose order is that of the floats
};

INLINE void range_meet(struct Range *range, vf x) {
  const vi size = (vi)x & 0x7fffffff;
  const vi larger = size > range->most;
  range->most = (larger & size) | (~larger & range->most);
}

INLINE float range_most(struct Range range) {
  int32_t most = 0;
  for (int i = 0; i < VL; i++) most = range.most[i] > most ? range.most[i] : most;
  float x;
  memcpy(&x, &most, sizeof x);
  return x;
}

/* The parts of 32 floats: words along K, or with `paired` words of one of the first and one of the second. */
INLINE void parts_of(vi part[], vf first, vf second, const bool paired, struct Range *range, const int parts) {
  if (parts > 1) range_meet(range, first), range_meet(range, second);
#pragma GCC unroll 4
  for (int p = 0; p < parts; p++) {
    part[p] = words_along(first, second);
    if (p + 1 < parts) {
      const vf a = p == 0 ? upper_cut(first) : upper_rounded(first);
      const vf b = p == 0 ? upper_cut(second) : upper_rounded(second);
      part[p] = words_along(a, b);
      first -= a, second -= b;
    }
    if (paired) part[p] = words_paired(part[p]);
  }
}

/* Row i of a panel's tiles as it comes from memory, of 16 lanes from `numbers` on: where numbers of K are neighbours
 * (`along`) a lane, else a pair of numbers of all 16. */
INLINE void panel_row(vi part[], struct Factor from, size_t i, const bool along, struct Range *range, const int parts) {
  const size_t at = along ? i * from.lane : 2 * i * from.step, next = along ? VL : from.step;
  if (from.numbers.dtype == FP32) {
    const float *numbers = (const float *)from.numbers.data + at;
    parts_of(part, vload(numbers), vload(numbers + next), !along, range, parts);
    return;
  }
  const uint16_t *numbers = (const uint16_t *)from.numbers.data + at;
  memcpy(&part[0], numbers, TILE_BYTES / 2);
  memcpy((char *)&part[0] + TILE_BYTES / 2, numbers + next, TILE_BYTES / 2);
  if (!along) part[0] = words_paired(part[0]);
  for (int p = 1; p < parts; p++) part[p] = (vi){0};
}

/* A step of a panel: 32 lanes by 32 numbers, all of them there. Rows that a tile wants the other way are turned. */
INLINE void pack_step(vi_unaligned *to, struct Factor from, const bool right, const bool along, struct Range *range,
                      const int parts) {
#pragma GCC unroll 1
  for (size_t half = 0; half < 2; half++, from = factor_at(from, TILE_ROWS, 0), to += TILE_ROWS) {
    if (parts == 1 && right == along) {
      vi row[TILE_ROWS];
#pragma GCC unroll 16
      for (size_t i = 0; i < TILE_ROWS; i++) panel_row(&row[i], from, i, along, range, 1);
      transpose16(row);
      memcpy(to, row, sizeof row);
      continue;
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < TILE_ROWS; i++) {
      vi part[3];
      panel_row(part, from, i, along, range, parts);
      for (int p = 0; p < parts; p++) to[p * 2 * TILE_ROWS + (int)i] = part[p];
    }
    if (right != along) continue;
#pragma GCC unroll 1
    for (int p = 0; p < parts; p++) {
      vi row[TILE_ROWS];
      memcpy(row, to + p * 2 * TILE_ROWS, sizeof row);
      transpose16(row);
      memcpy(to + p * 2 * TILE_ROWS, row, sizeof row);
    }
  }
}

/* A step that hangs over the edge: what is there is copied among zeros, and packed from there. */
static void pack_edge(vi_unaligned *to, struct Factor from, size_t lanes, size_t count, const bool right, struct Range *range,
                      const int parts) {
  float whole[PANEL * PANEL_STEP] = {0};
  for (size_t l = 0; l < lanes; l++) {
    for (size_t k = 0; k < count; k++) whole[l * PANEL_STEP + k] = view_get(from.numbers, l * from.lane + k * from.step);
  }
  pack_step(to, (struct Factor){view_of(whole), PANEL_STEP, 1}, right, true, range, parts);
}

/* Asks for the numbers of a step that will be packed next: its rows lie so far apart that no cache guesses them. */
INLINE void pack_ahead(struct Factor from, const bool along) {
  const size_t stride = (along ? from.lane : from.step) * dtype_size(from.numbers.dtype);
  const char *line = from.numbers.data;
#pragma GCC unroll 4
  for (size_t i = 0; i < PANEL; i++, line += stride) __builtin_prefetch(line), __builtin_prefetch(line + CACHE_LINE);
}

/* Panels of `lanes` lanes by kc numbers, `words` apart. `most` (panels): the largest magnitude in each, for more than one
 * part. Where lanes are neighbours several panels are packed together, so that a run of memory is read in one go. */
INLINE void pack_panels_as(uint32_t *to, size_t words, struct Factor from, size_t lanes, size_t kc, float *most,
                           const bool right, const bool along, const int parts) {
  enum { TOGETHER = 16 };
  const size_t together = (along ? 1 : TOGETHER) * PANEL;
  for (size_t begin = 0; begin < lanes; begin += together) {
    const size_t end = size_min(begin + together, lanes);
    struct Range range[TOGETHER] = {{{0}}};
    for (size_t k = 0; k < kc; k += PANEL_STEP) {
      for (size_t l = begin; l < end; l += PANEL) {
        vi_unaligned *step = (vi_unaligned *)(void *)(to + l / PANEL * words + k / PANEL_STEP * (size_t)parts * 2 * PANEL_TILE);
        const size_t have = size_min(PANEL, lanes - l), count = size_min(PANEL_STEP, kc - k);
        const struct Factor numbers = factor_at(from, l, k);
        if (k + PANEL_STEP < kc) pack_ahead(factor_at(from, l, k + PANEL_STEP), along);
        if (have == PANEL && count == PANEL_STEP) {
          pack_step(step, numbers, right, along, &range[(l - begin) / PANEL], parts);
        } else {
          pack_edge(step, numbers, have, count, right, &range[(l - begin) / PANEL], parts);
        }
      }
    }
    for (size_t l = begin; parts > 1 && l < end; l += PANEL) most[l / PANEL] = range_most(range[(l - begin) / PANEL]);
  }
}

INLINE void pack_panels(uint32_t *to, struct Factor from, size_t lanes, size_t kc, float *most, const bool right,
                        const int parts) {
  const size_t words = panel_words(kc, parts);
  if (from.step == 1) pack_panels_as(to, words, from, lanes, kc, most, right, true, parts);
  else pack_panels_as(to, words, from, lanes, kc, most, right, false, parts);
}

/* A thread's share of a block's panels: `lanes` lanes by kc numbers. `whole`: its panels are not cut into slices, and have
 * their largest magnitudes in `most` where there are several parts. */
INLINE void pack_panels_share(uint32_t *to, struct Factor from, size_t lanes, size_t kc, float *most, const bool right,
                              const bool whole, int thread, int threads, const int parts) {
  const size_t words = panel_words(kc, parts);
  const struct PackClaims packs = pack_claims(lanes, kc, (size_t)threads, TILED, whole, true);
  struct Span share = pack_share(&packs, thread, threads), panels, numbers;
  while (pack_claimed(&packs, &share, &panels, &numbers)) {
    const size_t lane = panels.begin * PANEL, count = size_min(panels.end * PANEL, lanes) - lane;
    const struct Factor part = factor_at(from, lane, numbers.begin);
    uint32_t *at = to + panels.begin * words + numbers.begin / PANEL_STEP * (size_t)parts * 2 * PANEL_TILE;
    float *largest = most == NULL ? NULL : most + panels.begin;
    if (from.step == 1) pack_panels_as(at, words, part, count, numbers.end - numbers.begin, largest, right, true, parts);
    else pack_panels_as(at, words, part, count, numbers.end - numbers.begin, largest, right, false, parts);
  }
}

/* Panels of `lanes` rows of INT8 weights from row n on, numbers k … k + kc: a block of 32 with one scale is a step. */
INLINE void pack_panels_int8(uint32_t *to, struct WeightsView weight, size_t n, size_t lanes, size_t k, size_t kc,
                             size_t K) {
  for (size_t l = 0; l < lanes; l += PANEL) {
    for (size_t begin = k; begin < k + kc; begin += PANEL_STEP, to += 2 * PANEL_TILE) {
      float floats[PANEL * WEIGHTS_BLOCK] = {0};
      const size_t count = size_min(WEIGHTS_BLOCK, k + kc - begin);
      pack_int8_floats(floats, weight, n + l, size_min(PANEL, lanes - l), begin, count, K);
      struct Range range = {{0}};  // not asked for
      pack_step((vi_unaligned *)(void *)to, (struct Factor){view_of(floats), WEIGHTS_BLOCK, 1}, true, true, &range, 1);
    }
  }
}
