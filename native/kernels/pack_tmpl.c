/* Packing: a factor of a product rewritten as panels, so that the inner loop reads straight ahead.
 *
 * A panel holds R lanes (R = MR for the left factor, NR for the right one). Each step of the inner loop
 * reads one word of 32 bits from every lane: a float, or where the CPU multiplies BF16 (PAIRS) two
 * neighbours in k. Physical order [panel][step][R]; lanes and numbers past the end are zero.
 *
 * Where an instruction takes four BF16 of a lane (QUADS), two steps are interleaved: [panel][step / 2][R][2].
 */

enum { NR = NRV * VL };

/* How a stored number becomes a word. */
enum Packing {
  FLOATS,         // a float, as it is
  ROUNDED,        // a float, rounded to BF16 and a float again
  WIDENED,        // BF16, made a float
  ROUNDED_PAIRS,  // two floats, rounded to BF16
  STORED_PAIRS,   // two BF16, as they are
};

/* From the type that numbers are stored in to the one they are multiplied in. */
INLINE enum Packing packing_of(enum Dtype stored, enum Dtype multiplied) {
  if (multiplied == FP32) return stored == FP32 ? FLOATS : WIDENED;
  if (PAIRS) return stored == FP32 ? ROUNDED_PAIRS : STORED_PAIRS;
  return stored == FP32 ? ROUNDED : WIDENED;
}

/* Numbers that a word of this product holds. */
INLINE size_t pack_word(enum Dtype multiplied) { return PAIRS && multiplied == BF16 ? 2 : 1; }

/* Steps that kc numbers take. */
INLINE size_t pack_steps(size_t kc, enum Dtype multiplied) {
  const size_t word = pack_word(multiplied);
  return QUADS && word == 2 ? 2 * ceil_div(kc, 4) : ceil_div(kc, word);
}

INLINE bool is_pairs(const enum Packing packing) { return packing >= ROUNDED_PAIRS; }
INLINE bool is_quads(const enum Packing packing) { return QUADS && is_pairs(packing); }
INLINE enum Dtype packed_as(const enum Packing packing) { return is_pairs(packing) ? BF16 : FP32; }

/* Where a panel holds step s of lane l. */
INLINE size_t pack_place(size_t s, size_t l, const size_t R, const enum Packing packing) {
  return is_quads(packing) ? s / 2 * 2 * R + 2 * l + s % 2 : s * R + l;
}

/* A factor, or a part of one: lane l's number k is element l * lane + k * step of the array. One of the
 * two strides is 1. */
struct Factor {
  struct ArrayView numbers;
  size_t lane, step;
};

INLINE struct Factor factor_at(struct Factor f, size_t lane, size_t step) {
  f.numbers = view_at(f.numbers, lane * f.lane + step * f.step);
  return f;
}

/* One word: the number at `i`, and in pairs the one `next` elements on, unless it is past the end. */
INLINE float pack_one(struct ArrayView numbers, size_t i, size_t next, bool has_next, const enum Packing packing) {
  if (packing == FLOATS) return ((const float *)numbers.data)[i];
  uint16_t pair[2] = {0};
  const float first = view_get(numbers, i), second = has_next ? view_get(numbers, i + next) : 0;
  if (packing < ROUNDED_PAIRS) return bf16_to_float(bf16_from_float(first));
  pair[0] = bf16_from_float(first), pair[1] = bf16_from_float(second);
  float word;
  memcpy(&word, pair, sizeof word);
  return word;
}

/* Eight words of one lane whose numbers are neighbours in memory, from element i on. */
INLINE v8 pack_eight_steps(const void *numbers, size_t i, const enum Packing packing) {
  const float *floats = (const float *)numbers + i;
  const uint16_t *halves = (const uint16_t *)numbers + i;
  switch (packing) {
    case FLOATS: return v8_load(floats, 8);
    case ROUNDED: return widen8(narrow8(v8_load(floats, 8)));
    case WIDENED: return widen8(h8_load(halves, 8));
    case ROUNDED_PAIRS: {
      h8 pairs[2] = {narrow8(v8_load(floats, 8)), narrow8(v8_load(floats + 8, 8))};
      v8 words;
      memcpy(&words, pairs, sizeof words);
      return words;
    }
    case STORED_PAIRS: {
      v8 words;
      memcpy(&words, halves, sizeof words);
      return words;
    }
  }
  __builtin_unreachable();
}

/* One word of up to eight lanes that are neighbours in memory, from element i on; in pairs the second
 * numbers lie `next` elements on. */
INLINE v8 pack_eight_lanes(const void *numbers, size_t i, size_t next, size_t width, const enum Packing packing) {
  const float *floats = (const float *)numbers + i;
  const uint16_t *halves = (const uint16_t *)numbers + i;
  switch (packing) {
    case FLOATS: return v8_load(floats, width);
    case ROUNDED: return widen8(narrow8(v8_load(floats, width)));
    case WIDENED: return widen8(h8_load(halves, width));
    case ROUNDED_PAIRS:
    case STORED_PAIRS: {
      h8 a, b;
      if (packing == ROUNDED_PAIRS) a = narrow8(v8_load(floats, width)), b = narrow8(v8_load(floats + next, width));
      else a = h8_load(halves, width), b = h8_load(halves + next, width);
      h8 pairs[2] = {SHUFFLE(h8, a, b, 0, 8, 1, 9, 2, 10, 3, 11),
                     SHUFFLE(h8, a, b, 4, 12, 5, 13, 6, 14, 7, 15)};
      v8 words;
      memcpy(&words, pairs, sizeof words);
      return words;
    }
  }
  __builtin_unreachable();
}

/* The words from step s on, one at a time, of `have` lanes; zeros up to R. */
INLINE void pack_rest(float *dst, struct Factor src, size_t have, size_t kc, size_t s, size_t lane, size_t width,
                      const size_t R, const enum Packing packing) {
  const size_t word = is_pairs(packing) ? 2 : 1, steps = pack_steps(kc, packed_as(packing));
  for (; s < steps; s++) {
    for (size_t l = lane; l < lane + width; l++) {
      const size_t at = l * src.lane + s * word * src.step, place = pack_place(s, l, R, packing);
      const bool there = l < have && s * word < kc;
      dst[place] = there ? pack_one(src.numbers, at, src.step, s * word + 1 < kc, packing) : 0;
    }
  }
}

/* Eight lanes by eight words, as four rows of two words of every lane. */
INLINE void pack_quads(float *dst, v8 row[8], size_t width, const size_t R) {
  v8 turned[4][2];
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    v8 even[2], odd[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      const v8 a = row[4 * half + 2 * i], b = row[4 * half + 2 * i + 1];
      even[i] = SHUFFLE(v8_bits, a, b, 0, 1, 8, 9, 4, 5, 12, 13);
      odd[i] = SHUFFLE(v8_bits, a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    }
    turned[0][half] = SHUFFLE(v8_bits, even[0], even[1], 0, 1, 2, 3, 8, 9, 10, 11);
    turned[1][half] = SHUFFLE(v8_bits, odd[0], odd[1], 0, 1, 2, 3, 8, 9, 10, 11);
    turned[2][half] = SHUFFLE(v8_bits, even[0], even[1], 4, 5, 6, 7, 12, 13, 14, 15);
    turned[3][half] = SHUFFLE(v8_bits, odd[0], odd[1], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; i++) memcpy(dst + i * 2 * R, turned[i], width * 2 * sizeof(float));
}

/* Eight lanes by eight words, turned; lanes past `lanes` are zero. */
INLINE void pack_block(float *dst, struct Factor src, size_t k, size_t lanes, size_t width, const size_t R,
                       const enum Packing packing) {
  v8 row[8];
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; i++) {
    row[i] = i < lanes ? pack_eight_steps(src.numbers.data, i * src.lane + k, packing) : (v8){0};
  }
  if (is_quads(packing)) {
    pack_quads(dst, row, width, R);
    return;
  }
  transpose8(row);
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; i++) memcpy(dst + i * R, &row[i], width * sizeof(float));
}

/* A panel of lanes whose numbers are neighbours. */
INLINE void pack_turned(float *dst, struct Factor src, size_t have, size_t kc, const size_t R,
                        const enum Packing packing) {
  const size_t word = is_pairs(packing) ? 2 : 1, whole = kc / word / 8 * 8;
  for (size_t l = 0; l < R; l += 8) {
    const size_t width = R - l < 8 ? R - l : 8, lanes = l < have ? size_min(width, have - l) : 0;
    const struct Factor from = factor_at(src, l, 0);
    float *to = dst + pack_place(0, l, R, packing);
    if (lanes == 8) {
      for (size_t s = 0; s < whole; s += 8) pack_block(to + s * R, from, s * word, 8, 8, R, packing);
    } else {
      for (size_t s = 0; s < whole; s += 8) pack_block(to + s * R, from, s * word, lanes, width, R, packing);
    }
    pack_rest(dst, src, have, kc, whole, l, width, R, packing);
  }
}

/* One word of up to eight lanes that are neighbours, or two of each, into a panel. */
INLINE void pack_lanes(float *dst, const void *numbers, size_t i, size_t step, size_t width,
                       const enum Packing packing) {
  const v8 row = pack_eight_lanes(numbers, i, step, width, packing);
  if (!is_quads(packing)) {
    memcpy(dst, &row, width * sizeof(float));
    return;
  }
  const v8 next = pack_eight_lanes(numbers, i + 2 * step, step, width, packing);
  const v8 both[2] = {SHUFFLE(v8_bits, row, next, 0, 8, 1, 9, 2, 10, 3, 11),
                      SHUFFLE(v8_bits, row, next, 4, 12, 5, 13, 6, 14, 7, 15)};
  memcpy(dst, both, width * 2 * sizeof(float));
}

/* Panels of lanes that are neighbours themselves, side by side: each step is a copy. Steps can lie so far apart that
 * no cache guesses the next. */
INLINE void pack_straight(float *dst, struct Factor src, size_t kc, const size_t R, const size_t panels,
                          const enum Packing packing) {
  enum { STEPS_AHEAD = 4, LINE = 64 };
  const size_t word = is_pairs(packing) ? 2 : 1, steps = pack_steps(kc, packed_as(packing));
  const size_t size = dtype_size(src.numbers.dtype), together = is_quads(packing) ? 2 : 1;  // steps
  size_t s = 0;
  for (; (s + together) * word <= kc; s += together) {
    const char *soon = (const char *)src.numbers.data + (s + STEPS_AHEAD) * word * src.step * size;
    for (size_t byte = 0; panels > 1 && byte < panels * R * size; byte += LINE) {
      for (size_t i = 0; i < together * word; i++) __builtin_prefetch(soon + i * src.step * size + byte);
    }
#pragma GCC unroll 4
    for (size_t panel = 0; panel < panels; panel++) {
#pragma GCC unroll 8
      for (size_t l = 0; l < R; l += 8) {
        const size_t width = R - l < 8 ? R - l : 8, at = panel * R + l + s * word * src.step;
        float *to = dst + (panel * steps + s) * R + pack_place(0, l, R, packing);
        pack_lanes(to, src.numbers.data, at, src.step, width, packing);
      }
    }
  }
  for (size_t panel = 0; panel < panels; panel++) {
    pack_rest(dst + panel * steps * R, factor_at(src, panel * R, 0), R, kc, s, 0, R, R, packing);
  }
}

/* Panels of `lanes` lanes by kc numbers. */
INLINE void pack_as(float *dst, struct Factor src, size_t lanes, size_t kc, const size_t R,
                    const enum Packing packing) {
  const size_t steps = pack_steps(kc, packed_as(packing)), together = R < 16 ? 4 : 1;
  for (size_t l = 0; l < lanes;) {
    const struct Factor from = factor_at(src, l, 0);
    const size_t have = size_min(R, lanes - l);
    size_t panels = 1;
    if (src.step == 1) pack_turned(dst, from, have, kc, R, packing);
    else if (lanes - l >= together * R) pack_straight(dst, from, kc, R, panels = together, packing);
    else if (have == R) pack_straight(dst, from, kc, R, 1, packing);
    else pack_rest(dst, from, have, kc, 0, 0, R, R, packing);
    l += panels * R, dst += panels * R * steps;
  }
}

INLINE void pack(float *dst, struct Factor src, size_t lanes, size_t kc, enum Dtype multiplied, const size_t R) {
  switch (packing_of(src.numbers.dtype, multiplied)) {
    case FLOATS: pack_as(dst, src, lanes, kc, R, FLOATS); break;
    case ROUNDED: pack_as(dst, src, lanes, kc, R, ROUNDED); break;
    case WIDENED: pack_as(dst, src, lanes, kc, R, WIDENED); break;
#if PAIRS
    case ROUNDED_PAIRS: pack_as(dst, src, lanes, kc, R, ROUNDED_PAIRS); break;
    case STORED_PAIRS: pack_as(dst, src, lanes, kc, R, STORED_PAIRS); break;
#else
    case ROUNDED_PAIRS: case STORED_PAIRS: break;
#endif
  }
}

static void pack_left(float *dst, struct Factor src, size_t lanes, size_t kc, enum Dtype multiplied) {
  pack(dst, src, lanes, kc, multiplied, MR);
}

static void pack_right(float *dst, struct Factor src, size_t lanes, size_t kc, enum Dtype multiplied) {
  pack(dst, src, lanes, kc, multiplied, NR);
}

/* A right factor of one panel, as wide as so many vectors. */
static void pack_strip(float *dst, struct Factor src, size_t lanes, size_t kc, enum Dtype multiplied, size_t vectors) {
  switch (vectors) {
    case 1: pack(dst, src, lanes, kc, multiplied, VL); break;
    case 2: pack(dst, src, lanes, kc, multiplied, 2 * VL); break;
    default: pack(dst, src, lanes, kc, multiplied, NR); break;
  }
}

/* Rows of a right factor as pack() would write them: numbers k … of the VL lanes from `lane` on, as many as one step
 * takes, or in quads two. x: a row each. */
INLINE void pack_rows(float *panel, size_t k, size_t lane, const size_t R, const vf x[], const bool pairs) {
  if (!pairs) {
    vstore(panel + k * R + lane, x[0]);
    return;
  }
#if QUADS
  const vf low = vpairs(x[0], x[1]), high = vpairs(x[2], x[3]);
  vstore(panel + k / 2 * R + 2 * lane, SHUFFLE(vi, low, high, 0, 4, 1, 5));
  vstore(panel + k / 2 * R + 2 * lane + VL, SHUFFLE(vi, low, high, 2, 6, 3, 7));
#else
  vstore(panel + k / 2 * R + lane, vpairs(x[0], x[1]));
#endif
}

/* Rows that pack_rows takes. */
INLINE size_t pack_group(const bool pairs) { return !pairs ? 1 : QUADS ? 4 : 2; }

/* INT8 in units of the scale to floats; whole blocks in whole vectors. */
INLINE void pack_floats(float *to, const int8_t *bytes, float scale, size_t count) {
  if (count == WEIGHTS_BLOCK) {
    for (size_t j = 0; j < WEIGHTS_BLOCK; j++) to[j] = (float)bytes[j] * scale;
    return;
  }
  for (size_t j = 0; j < count; j++) to[j] = (float)bytes[j] * scale;
}

/* Rows n … n + lanes of INT8 weights, numbers begin … begin + count of a block, as floats. */
INLINE void pack_int8_floats(float *floats, struct WeightsView weight, size_t n, size_t lanes, size_t begin, size_t count,
                             size_t K) {
  for (size_t i = 0; i < lanes; i++) {
    int8_t bytes[WEIGHTS_BLOCK];
    weights_get_block(bytes, weight, n + i, begin / WEIGHTS_BLOCK, K);
    const float scale = weight.scales[weights_scale_place(n + i, begin / WEIGHTS_BLOCK, K)];
    pack_floats(floats + i * WEIGHTS_BLOCK, bytes, scale, count);
  }
}

/* At most NR rows of INT8 weights, numbers k … k + kc, of which k begins a block: made floats and packed block by
 * block. */
static void pack_int8(float *dst, struct WeightsView weight, size_t n, size_t lanes, size_t k, size_t kc, size_t K,
                      enum Dtype multiplied) {
  for (size_t begin = k; begin < k + kc; begin += WEIGHTS_BLOCK, dst += NR * WEIGHTS_BLOCK / pack_word(multiplied)) {
    float floats[NR * WEIGHTS_BLOCK];
    const size_t count = size_min(WEIGHTS_BLOCK, k + kc - begin);
    pack_int8_floats(floats, weight, n, lanes, begin, count, K);
    pack_right(dst, (struct Factor){view_of(floats), WEIGHTS_BLOCK, 1}, lanes, count, multiplied);
  }
}
