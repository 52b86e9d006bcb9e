/* Causal attention, tiled, with an online softmax: no row of scores is ever stored.
 *
 * After FlashAttention (Dao et al. 2022), laid out so that nothing is summed across a vector. Forward
 * works on strips of queries, one query to a lane: the scores of a tile of keys are kᵀ-panels times
 * a panel of qᵀ, their maximum and sum run down the lanes, and the strip of weights is, as it stands,
 * the right factor of the product with the values. Backward does the same with one key to a lane.
 *
 * Where the CPU multiplies pairs of BF16, a model in BF16 has its factors packed in pairs, weights included: a
 * weight's row is paired with the next as it leaves the exponential. Scores and sums are floats in any case.
 *
 * With dropout the weights that are multiplied by values are not those that are summed up: the softmax is over all.
 *
 * The work is claimed by (batch, head) pairs, or by parts of them where they would not keep the threads busy (claims.h).
 */

enum { TILE = 128 / MR * MR };  // rows of the left factor that are in hand at once
_Static_assert(!PAIRS || MR % (QUADS ? 4 : 2) == 0, "a tile of keys or queries begins with a whole pair, or quad");

struct Attention {
  const struct Workers *workers;
  struct ArrayView qkv;    // (B, T, 3C)
  struct Array out;        // forward writes (B, T, C)
  float *lse;              // and (B, NH, T)
  float *dqkv;             // backward writes (B, T, 3C)
  struct ArrayView out_read;  // and reads (B, T, C)
  const float *dout, *lse_read;
  struct Dropout dropout;     // of the weights
  size_t B, T, C, NH, HS;
  size_t first;            // position of the first query: those before it are in a cache
};

/* Weights are packed where the scores were, except in quads, whose rows would lie over scores that are still needed. */
enum { WEIGHTS_APART = QUADS * TILE * NR };

static size_t attention_forward_floats(size_t T, size_t HS) {
  const size_t deep = steps_most(HS);
  return rows_left(T) * deep + rows_left(HS) * steps_most(T) + deep * NR + TILE * NR + WEIGHTS_APART +
         rows_left(HS) * NR + TURNED;
}

static size_t attention_backward_floats(size_t T, size_t HS) {
  const size_t rows = rows_left(T), deep = steps_most(HS);
  return 2 * rows * deep + 2 * rows_left(HS) * rows + rows * rows_right(HS) + 2 * rows + 2 * deep * NR +
         NR * rows_right(HS) + 3 * TILE * NR + WEIGHTS_APART + rows_left(TILE) * NR + 2 * rows_left(HS) * NR + TURNED;
}

INLINE float array_dot(struct ArrayView a, const float *b, size_t n) {
  vf sums = {0};
  float tail = 0;
  size_t i = 0;
  for (; i + VL <= n; i += VL) sums += vload_array(a, i) * vload(b + i);
  for (; i < n; i++) tail += view_get(a, i) * b[i];
  return vsum(sums) + tail;
}

/* So many vectors of queries, from position q0 on, of one head; lse may be NULL, and the head's dropout too. keys: left
 * panels (HS, T); values: for each tile of keys, left panels (keys of the tile, HS), the tiles one after the other. */
INLINE void attention_strip(const struct Attention *at, struct Array out, float *lse, struct ArrayView q,
                            const float *keys, const float *values, float *scratch, size_t q0, size_t vectors,
                            const bool pairs, const struct Dropout *dropout) {
  const size_t HS = at->HS, T = at->T, stride = 3 * at->C, width = vectors * VL;
  const size_t group = pack_group(pairs);
  const float scale = 1 / sqrtf((float)HS);
  const size_t queries = size_min(width, T - q0), needed = size_min(T, q0 + width);
  float *q_panel = scratch, *weights = q_panel + steps_most(HS) * NR, *sums = weights + TILE * NR + WEIGHTS_APART;
  float *packed = pairs ? weights + WEIGHTS_APART : weights;
  pack_strip(q_panel, head_rows(q, stride, q0 - at->first, false), queries, HS, factors_as(pairs), vectors);
  vf max[NRV], total[NRV];
  for (size_t v = 0; v < vectors; v++) max[v] = vsplat(-INFINITY), total[v] = (vf){0};

  for (size_t k0 = 0; k0 < needed; k0 += TILE) {
    const size_t tile = size_min(TILE, T - k0), used = size_min(tile, needed - k0);
    strip_product(weights, keys + k0 * steps_of(HS, pairs), q_panel, rows_left(used), HS, false, vectors, pairs);
    for (size_t v = 0; v < vectors; v++) {
      const vi query = lane_numbers(q0 + v * VL);
      vf top = max[v], sum = {0};
      for (size_t k = 0; k < used; k++) {
        float *w = weights + k * width + v * VL;
        vf score = scale * vload(w);
        if (k0 + k > q0) score = vselect((int32_t)(k0 + k) > query, vsplat(-INFINITY), score);
        vstore(w, score);
        top = vmax(score, top);
      }
      for (size_t k = 0; k < used; k += group) {
        const float *w = weights + k * width + v * VL;
        vf weight[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < group; i++) {
          weight[i] = i == 0 || k + i < used ? vexp(vload(w + i * width) - top) : (vf){0};
        }
#pragma GCC unroll 2
        for (size_t i = 0; i < group; i += 2) sum += pairs ? weight[i] + weight[i + 1] : weight[i];
        if (dropout != NULL) {
#pragma GCC unroll 4
          for (size_t i = 0; i < group; i++) {
            weight[i] *= vdropout_factor(dropout, dropout->key, ((vu)query << 16) + (uint32_t)(k0 + k + i));
          }
        }
        pack_rows(packed, k, v * VL, width, weight, pairs);
      }
      const vf shrink = vexp(max[v] - top);
      max[v] = top;
      total[v] = total[v] * shrink + sum;
      for (size_t i = 0; k0 > 0 && i < HS; i++) {
        float *s = sums + i * width + v * VL;
        vstore(s, shrink * vload(s));
      }
    }
    /* The panels of a tile are as deep as the tile; a strip on the diagonal uses their first rows. */
    const float *tile_values = values + steps_of(k0, pairs) * rows_left(HS);
    for (size_t i = 0; i < HS; i += MR) {
      const float *panel = tile_values + i * steps_of(tile, pairs);
      strip_product(sums + i * width, panel, packed, MR, used, k0 > 0, vectors, pairs);
    }
  }
  for (size_t v = 0; v < vectors; v++) {
    for (size_t i = 0; i < HS; i++) {
      float *s = sums + i * width + v * VL;
      vstore(s, vload(s) / total[v]);
    }
    for (size_t l = 0; lse != NULL && l < VL && v * VL + l < queries; l++) {
      lse[q0 + v * VL + l] = max[v][l] + logf(total[v][l]);
    }
  }
  strip_store_turned(array_at(out, (q0 - at->first) * at->C), at->C, sums, width, queries, HS);
}

/* Left panels of one head's keys (HS, T), and behind them of its values, tile by tile. */
INLINE void attention_pack(float *keys, float *values, struct ArrayView k, struct ArrayView v, size_t stride, size_t T,
                           size_t HS, const bool pairs) {
  pack_left(keys, head_rows(k, stride, 0, false), T, HS, factors_as(pairs));
  for (size_t k0 = 0; k0 < T; k0 += TILE) {
    float *tile = values + steps_of(k0, pairs) * rows_left(HS);
    pack_left(tile, head_rows(v, stride, k0, true), HS, size_min(TILE, T - k0), factors_as(pairs));
  }
}

INLINE void attention_forward_heads(const struct Attention *at, int thread, int threads, const bool pairs,
                                    const bool drops) {
  const size_t T = at->T, C = at->C, HS = at->HS, NH = at->NH, stride = 3 * C, vectors = strip_vectors(T);
  const size_t width = vectors * VL;
  const struct AttentionClaims claims = attention_forward_claims(at->B * NH, ceil_div(T, width), (size_t)threads);
  float *keys = at->workers->own + (size_t)thread * at->workers->own_floats;
  float *values = keys + rows_left(T) * steps_most(HS), *scratch = values + rows_left(HS) * steps_most(T);
  struct Near near = attention_near(&claims, at->workers->pool, thread, threads);
  for (size_t i; near_next(&near, &i);) {
    const struct AttentionClaim claim = attention_claimed(&claims, i, false);
    const size_t b = claim.head / NH, h = claim.head % NH;
    const struct Dropout dropout = dropout_head(&at->dropout, claim.head);
    const struct ArrayView q = view_at(at->qkv, b * T * stride + h * HS), k = view_at(q, C), v = view_at(k, C);
    /* As many whole tiles of keys as the part's last strip sees. */
    const size_t seen = size_min(T, round_up(attention_seen(&claims, claim, T, width), TILE));
    attention_pack(keys, values, k, v, stride, seen, HS, pairs);
    for (size_t q0 = claim.part * width; q0 < T; q0 += claims.key_parts * width) {
      attention_strip(at, array_at(at->out, b * T * C + h * HS), at->lse + claim.head * T, q, keys, values, scratch, q0,
                      vectors, pairs, drops ? &dropout : NULL);
    }
  }
}

#if TILES
#include "kernels/attention_tiles_tmpl.c"
#endif

static void attention_forward_task(void *argument, int thread, int threads) {
  const struct Attention *at = argument;
  const bool drops = at->dropout.below > 0;
#if TILES
  if (at->workers->dtype == BF16 && !drops) {  // tiles know no dropout
    attention_tiles_forward_task(argument, thread, threads);
    return;
  }
#endif
  if (PAIRS && at->workers->dtype == BF16) {
    if (drops) attention_forward_heads(at, thread, threads, true, true);
    else attention_forward_heads(at, thread, threads, true, false);
  } else if (drops) {
    attention_forward_heads(at, thread, threads, false, true);
  } else {
    attention_forward_heads(at, thread, threads, false, false);
  }
}

static void attention_forward(const struct Workers *workers, struct AttentionForward a) {
  struct Attention at = {.workers = workers, .out = a.out, .lse = a.lse, .qkv = a.qkv, .dropout = a.dropout,
                         .B = a.B, .T = a.T, .C = a.C, .NH = a.NH, .HS = a.C / a.NH};
  pool_run(workers->pool, "attention_forward", attention_forward_task, &at);
}

/* What backward packs of one head, once. Left panels: (HS, T) of the queries and of dout, and by tiles
 * of queries (tile, HS) of the same two. */
struct Head {
  float *q, *dy, *q_tiles, *dy_tiles;
  float *dq;               // (T, HS), the columns filled up to right panels, as wide as strip_vectors(HS)
  float *lse, *dy_y;       // (T): rows past T have weight 0 through lse = infinity
  float *scratch;
};

/* `share`: which tiles of queries are packed, and whether for dk and dv too. */
INLINE struct Head attention_pack_head(const struct Attention *at, float *own, size_t b, size_t h,
                                       const struct AttentionShare *share, const bool pairs) {
  const enum Dtype factors = factors_as(pairs);
  const size_t T = at->T, C = at->C, HS = at->HS, stride = 3 * C, rows = rows_left(T);
  struct Head head = {.q = own};
  head.dy = head.q + rows * steps_most(HS);
  head.q_tiles = head.dy + rows * steps_most(HS);
  head.dy_tiles = head.q_tiles + rows * rows_left(HS);
  head.dq = head.dy_tiles + rows * rows_left(HS);
  head.lse = head.dq + rows * rows_right(HS);
  head.dy_y = head.lse + rows;
  head.scratch = head.dy_y + rows;

  const struct ArrayView q = view_at(at->qkv, b * T * stride + h * HS);
  const struct ArrayView y = view_at(at->out_read, b * T * C + h * HS);
  const float *dy = at->dout + b * T * C + h * HS;
  for (size_t q0 = 0; q0 < T; q0 += TILE) {
    const size_t tile = size_min(TILE, T - q0), begin = steps_of(q0, pairs) * rows_left(HS);
    if (!share_sees(share, q0, TILE)) continue;
    pack_left(head.q + q0 * steps_of(HS, pairs), head_rows(q, stride, q0, false), tile, HS, factors);
    pack_left(head.dy + q0 * steps_of(HS, pairs), head_rows(view_of(dy), C, q0, false), tile, HS, factors);
    for (size_t t = q0; t < size_min(rows, q0 + TILE); t++) {
      head.lse[t] = t < T ? at->lse_read[(b * at->NH + h) * T + t] : INFINITY;
      head.dy_y[t] = t < T ? array_dot(view_at(y, t * C), dy + t * C, HS) : 0;
    }
    if (!share->keys) continue;
    pack_left(head.q_tiles + begin, head_rows(q, stride, q0, true), HS, tile, factors);
    pack_left(head.dy_tiles + begin, head_rows(view_of(dy), C, q0, true), HS, tile, factors);
  }
  return head;
}

/* So many vectors of keys, from position k0 on, of one head against all queries from there on: their dk and dv are
 * complete after it, dq collects one strip's part. Of these the share may have one or the other. */
INLINE void attention_backward_strip(const struct Attention *at, const struct Head *head,
                                     const struct AttentionShare *share, float *dk, float *dv, struct ArrayView k,
                                     struct ArrayView v, size_t k0, size_t vectors, const bool pairs,
                                     const struct Dropout *dropout) {
  const enum Dtype factors = factors_as(pairs);
  const size_t group = pack_group(pairs);
  const size_t HS = at->HS, T = at->T, stride = 3 * at->C, width = vectors * VL;
  const size_t dq_vectors = strip_vectors(HS), dq_width = dq_vectors * VL;
  const float scale = 1 / sqrtf((float)HS);
  const size_t count = size_min(width, T - k0);
  float *k_turned = head->scratch, *v_turned = k_turned + steps_most(HS) * NR;
  float *k_rows = v_turned + steps_most(HS) * NR;
  float *weights = k_rows + NR * rows_right(HS), *dscores = weights + TILE * NR + WEIGHTS_APART;
  float *packed = pairs ? weights + WEIGHTS_APART : weights;
  float *paired = dscores + TILE * NR;  // dscores as a right factor, two rows in one
  float *dscores_left = pairs ? paired + TILE * NR : paired;
  float *dk_strip = dscores_left + rows_left(TILE) * NR, *dv_strip = dk_strip + rows_left(HS) * NR;
  pack_strip(k_turned, head_rows(k, stride, k0, false), count, HS, factors, vectors);
  pack_strip(v_turned, head_rows(v, stride, k0, false), count, HS, factors, vectors);
  /* Right panels of the rows of the keys; those past T are zero. */
  const size_t depth = steps_of(width, pairs);
  memset(k_rows, 0, depth * rows_right(HS) * sizeof(float));
  for (size_t j = 0; j < HS; j += dq_width) {
    pack_strip(k_rows + j * depth, head_rows(view_at(k, j), stride, k0, true), size_min(dq_width, HS - j), count,
               factors, dq_vectors);
  }

  /* The first tile begins where queries see these keys. */
  const size_t first = k0 / MR * MR;
  for (size_t tile0 = k0 / TILE * TILE, q0 = first; tile0 < T; q0 = tile0 += TILE) {
    const size_t tile = size_min(TILE, T - tile0), skip = q0 - tile0, used = tile - skip, rows = rows_left(used);
    const bool add = q0 > first;
    if (!share_sees(share, tile0, TILE)) continue;
    const size_t at_q0 = q0 * steps_of(HS, pairs);
    strip_product(weights, head->q + at_q0, k_turned, rows, HS, false, vectors, pairs);
    strip_product(dscores, head->dy + at_q0, v_turned, rows, HS, false, vectors, pairs);
    for (size_t j = 0; j < vectors; j++) {
      const vi key = lane_numbers(k0 + j * VL);
      for (size_t t = 0; t < rows; t += group) {
        vf weight[4], dscore[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < group; i++) {
          const size_t query = q0 + t + i, row = (t + i) * width + j * VL;
          weight[i] = vexp(scale * vload(weights + row) - head->lse[query]);
          if (query < k0 + width) weight[i] = vselect(key > (int32_t)query, (vf){0}, weight[i]);
          vf dweight = vload(dscores + row), factor = {0};
          if (dropout != NULL) {
            factor = vdropout_factor(dropout, dropout->key, (vu)key + dropout_weight(query, 0));
            dweight *= factor;
          }
          dscore[i] = scale * weight[i] * (dweight - head->dy_y[query]);
          vstore(dscores + row, dscore[i]);
          if (dropout != NULL) weight[i] *= factor;
        }
        pack_rows(packed, t, j * VL, width, weight, pairs);
        if (pairs) pack_rows(paired, t, j * VL, width, dscore, true);
      }
    }
    const size_t tile_begin = steps_of(tile0, pairs) * rows_left(HS);
    for (size_t i = 0; share->keys && i < HS; i += MR) {
      const size_t panel = tile_begin + i * steps_of(tile, pairs) + steps_of(skip, pairs) * MR;
      strip_product(dv_strip + i * width, head->dy_tiles + panel, packed, MR, used, add, vectors, pairs);
      strip_product(dk_strip + i * width, head->q_tiles + panel, pairs ? paired : dscores, MR, used, add, vectors,
                    pairs);
    }
    if (!share->queries) continue;
    pack_left(dscores_left, head_rows(view_of(dscores), width, 0, false), rows, width, factors);
    for (size_t j = 0; j < rows_right(HS); j += dq_width) {
      strip_product(head->dq + j * rows_left(T) + q0 * dq_width, dscores_left, k_rows + j * depth, rows, width,
                    k0 > 0, dq_vectors, pairs);
    }
  }
  if (!share->keys) return;
  strip_store_turned(array_of(dk + k0 * stride), stride, dk_strip, width, count, HS);
  strip_store_turned(array_of(dv + k0 * stride), stride, dv_strip, width, count, HS);
}

INLINE void attention_backward_heads(const struct Attention *at, int thread, int threads, const bool pairs,
                                     const bool drops) {
  const size_t T = at->T, C = at->C, HS = at->HS, NH = at->NH, stride = 3 * C;
  const size_t vectors = strip_vectors(T), width = vectors * VL, dq_width = strip_vectors(HS) * VL;
  const struct AttentionClaims claims =
      attention_backward_claims(at->B * NH, ceil_div(T, width), ceil_div(T, TILE), (size_t)threads);
  float *own = at->workers->own + (size_t)thread * at->workers->own_floats;
  struct Near near = attention_near(&claims, at->workers->pool, thread, threads);
  for (size_t i; near_next(&near, &i);) {
    const struct AttentionClaim claim = attention_claimed(&claims, i, true);
    const struct AttentionShare share = attention_share(&claims, claim, width);
    const size_t b = claim.head / NH, h = claim.head % NH, offset = b * T * stride + h * HS;
    const struct Dropout dropout = dropout_head(&at->dropout, claim.head);
    const struct Head head = attention_pack_head(at, own, b, h, &share, pairs);
    const struct ArrayView k = view_at(at->qkv, offset + C), v = view_at(k, C);
    float *dq = at->dqkv + offset, *dk = dq + C, *dv = dk + C;
    for (size_t k0 = share.first; k0 < share_end(&share, T, TILE); k0 += share.strips * width) {
      attention_backward_strip(at, &head, &share, dk, dv, k, v, k0, vectors, pairs, drops ? &dropout : NULL);
    }
    for (size_t j = 0; share.queries && j < HS; j += dq_width) {
      for (size_t t = 0; t < T; t++) {
        if (!share_sees(&share, t / TILE * TILE, TILE)) continue;
        const float *row = head.dq + j * rows_left(T) + t * dq_width;
        memcpy(dq + t * stride + j, row, size_min(dq_width, HS - j) * sizeof *row);
      }
    }
  }
}

static void attention_backward_task(void *argument, int thread, int threads) {
  const struct Attention *at = argument;
  const bool drops = at->dropout.below > 0;
#if TILES
  if (at->workers->dtype == BF16 && !drops) {
    attention_tiles_backward_task(argument, thread, threads);
    return;
  }
#endif
  if (PAIRS && at->workers->dtype == BF16) {
    if (drops) attention_backward_heads(at, thread, threads, true, true);
    else attention_backward_heads(at, thread, threads, true, false);
  } else if (drops) {
    attention_backward_heads(at, thread, threads, false, true);
  } else {
    attention_backward_heads(at, thread, threads, false, false);
  }
}

static void attention_backward(const struct Workers *workers, struct AttentionBackward a) {
  struct Attention at = {.workers = workers, .dqkv = a.dqkv, .dout = a.dout, .qkv = a.qkv, .out_read = a.out,
                         .lse_read = a.lse, .dropout = a.dropout,
                         .B = a.B, .T = a.T, .C = a.C, .NH = a.NH, .HS = a.C / a.NH};
  pool_run(workers->pool, "attention_backward", attention_backward_task, &at);
}
