/* Attention over keys and values that are kept: of a prompt, whose queries are many, and of texts that grow by
 * one token each.
 *
 * Work is claimed by the head of a text: who has it first puts the head's new keys and values into the cache,
 * then reads them all. So a text's bits depend neither on the others nor on the threads.
 */

struct Cached {
  const struct Workers *workers;
  float *out;               // (M, C)
  const float *qkv;         // (M, 3C)
  struct Cache cache;
  const struct Feed *feeds; // (M), or the first of a prompt
  size_t M, C, NH, HS;
};

static size_t cached_floats(size_t T, size_t HS) { return round_up(T, VL) + round_up(HS, CACHE_LANES); }

/* One head's keys or values: (P, round_up(HS, CACHE_LANES)). */
INLINE struct Array cached_head(const struct Cached *c, struct Array kept, size_t slot, size_t h) {
  return array_at(kept, (slot * c->NH + h) * c->cache.P * round_up(c->HS, CACHE_LANES));
}

/* A row of a head into the cache; what fills it up is zero and stays so. */
INLINE void cached_keep(struct Array to, const float *from, size_t HS) {
  size_t i = 0;
  for (; i + VL <= HS; i += VL) vstore_array(to, i, vload(from + i));
  for (; i < HS; i++) array_set(to, i, from[i]);
}

INLINE vf cached_load(const void *data, size_t i, const enum Dtype dtype) {
  return vload_array((struct ArrayView){data, dtype}, i);
}

/* scores (T) = q · keys, for as many positions at once as a vector has lanes: their sums are added up together. */
INLINE void cached_scores(float *scores, const float *q, struct ArrayView keys, size_t T, size_t row,
                          const enum Dtype dtype) {
  const char *at = keys.data;
  const size_t bytes = row * dtype_size(dtype);
  size_t t = 0;
  for (; t + VL <= T; t += VL, at += VL * bytes) {
    vf sum[VL] = {0};
    for (size_t i = 0; i < row; i += VL) {
      const vf x = vload(q + i);
#pragma GCC unroll 16
      for (size_t j = 0; j < VL; j++) sum[j] += x * cached_load(at + j * bytes, i, dtype);
    }
    vstore(scores + t, vsums(sum));
  }
  for (; t < T; t++, at += bytes) {
    vf sum = {0};
    for (size_t i = 0; i < row; i += VL) sum += vload(q + i) * cached_load(at, i, dtype);
    scores[t] = vsum(sum);
  }
}

/* weights (T) = exp(scores - the largest), in place; returns their sum. */
INLINE float cached_softmax(float *scores, size_t T) {
  const size_t whole = round_up(T, VL);
  for (size_t t = T; t < whole; t++) scores[t] = -INFINITY;
  vf max = vload(scores), sum = {0};
  for (size_t t = VL; t < whole; t += VL) max = vmax(vload(scores + t), max);
  const float top = vmax_lane(max);
  for (size_t t = 0; t < whole; t += VL) {
    const vf weight = vexp(vload(scores + t) - top);
    vstore(scores + t, weight);
    sum += weight;
  }
  return vsum(sum);
}

/* out (some vectors of a row) = weights · values / total, even and odd positions apart. */
INLINE void cached_lanes(float *out, const float *weights, const char *values, float total, size_t T, size_t bytes,
                         const size_t vectors, const enum Dtype dtype) {
  vf even[4] = {0}, odd[4] = {0};
  size_t t = 0;
  for (; t + 2 <= T; t += 2, values += 2 * bytes) {
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; v++) {
      even[v] += weights[t] * cached_load(values, v * VL, dtype);
      odd[v] += weights[t + 1] * cached_load(values + bytes, v * VL, dtype);
    }
  }
#pragma GCC unroll 4
  for (size_t v = 0; v < vectors; v++) {
    if (t < T) even[v] += weights[t] * cached_load(values, v * VL, dtype);
    vstore(out + v * VL, (even[v] + odd[v]) / total);
  }
}

/* One query (HS) over T positions. */
INLINE void cached_query(float *out, float *scratch, const float *q, struct ArrayView keys, struct ArrayView values,
                         size_t T, size_t HS, const enum Dtype dtype) {
  const size_t row = round_up(HS, CACHE_LANES);
  float *padded = scratch, *scores = scratch + row;
  const float scale = 1 / sqrtf((float)HS);
  for (size_t i = 0; i < row; i++) padded[i] = i < HS ? scale * q[i] : 0;
  cached_scores(scores, padded, keys, T, row, dtype);
  const float total = cached_softmax(scores, T);
  const size_t bytes = row * dtype_size(dtype);
  size_t i = 0;
  for (; i + 4 * VL <= row; i += 4 * VL) {
    cached_lanes(padded + i, scores, view_at(values, i).data, total, T, bytes, 4, dtype);
  }
  for (; i < row; i += CACHE_LANES) {
    cached_lanes(padded + i, scores, view_at(values, i).data, total, T, bytes, CACHE_LANES / VL, dtype);
  }
  memcpy(out, padded, HS * sizeof(float));
}

static void attention_forward_cached_task(void *argument, int thread, int threads) {
  const struct Cached *c = argument;
  const size_t C = c->C, HS = c->HS, row = round_up(HS, CACHE_LANES);
  float *scratch = c->workers->own + (size_t)thread * c->workers->own_floats;
  (void)threads;
  for (size_t pair; (pair = pool_claim(c->workers->pool)) < c->M * c->NH;) {
    const size_t m = pair / c->NH, h = pair % c->NH, position = c->feeds[m].position;
    const struct Array keys = cached_head(c, c->cache.keys, c->feeds[m].slot, h);
    const struct Array values = cached_head(c, c->cache.values, c->feeds[m].slot, h);
    const float *q = c->qkv + m * 3 * C + h * HS;
    float *out = c->out + m * C + h * HS;
    cached_keep(array_at(keys, position * row), q + C, HS);
    cached_keep(array_at(values, position * row), q + 2 * C, HS);
    if (keys.dtype == FP32) cached_query(out, scratch, q, view(keys), view(values), position + 1, HS, FP32);
    else cached_query(out, scratch, q, view(keys), view(values), position + 1, HS, BF16);
  }
}

static void attention_forward_cached(const struct Workers *workers, float *out, const float *qkv, struct Cache cache,
                             const struct Feed *feeds, size_t M, size_t C, size_t NH) {
  struct Cached c = {workers, out, qkv, cache, feeds, M, C, NH, C / NH};
  pool_run(workers->pool, "attention_forward_cached", attention_forward_cached_task, &c);
}

/* The strips of attention_forward, whose keys and values come out of the cache. */
static void attention_prompt_task(void *argument, int thread, int threads) {
  const struct Cached *c = argument;
  const size_t C = c->C, HS = c->HS, row = round_up(HS, CACHE_LANES), first = c->feeds->position, T = first + c->M;
  const size_t vectors = strip_vectors(c->M);
  const struct Attention at = {.workers = c->workers, .T = T, .C = C, .NH = c->NH, .HS = HS, .first = first};
  float *packed_keys = c->workers->own + (size_t)thread * c->workers->own_floats;
  float *packed_values = packed_keys + rows_left(T) * steps_most(HS);
  float *scratch = packed_values + rows_left(HS) * steps_most(T);
  (void)threads;
  for (size_t h; (h = pool_claim(c->workers->pool)) < c->NH;) {
    const struct Array keys = cached_head(c, c->cache.keys, c->feeds->slot, h);
    const struct Array values = cached_head(c, c->cache.values, c->feeds->slot, h);
    const float *q = c->qkv + h * HS;
    for (size_t m = 0; m < c->M; m++) {
      cached_keep(array_at(keys, (first + m) * row), q + m * 3 * C + C, HS);
      cached_keep(array_at(values, (first + m) * row), q + m * 3 * C + 2 * C, HS);
    }
    attention_pack(packed_keys, packed_values, view(keys), view(values), row, T, HS, false);
    for (size_t q0 = first; q0 < T; q0 += vectors * VL) {
      attention_strip(&at, array_of(c->out + h * HS), NULL, view_of(q), packed_keys, packed_values, scratch, q0,
                      vectors, false, NULL);
    }
  }
}

static void attention_prompt(const struct Workers *workers, float *out, const float *qkv, struct Cache cache,
                             struct Feed first, size_t M, size_t C, size_t NH) {
  struct Cached c = {workers, out, qkv, cache, &first, M, C, NH, C / NH};
  pool_run(workers->pool, "attention_prompt", attention_prompt_task, &c);
}
