/* Causal attention of BF16 on AMX tiles: the loops of attention_tmpl.c with blocks of 32 x 32 in place of strips of
 * vectors. Scores, sums and exponentials are floats; what is multiplied is BF16.
 *
 * A strip is 32 queries (forward) or keys (backward), one to a column of two tiles of sums. Its weights leave the
 * exponential two rows at a time: a pair of rows is, as it stands, a row of the right factor of the next product.
 */

enum {
  TILED_HAND = 128,              // rows of the left factor that are in hand at once
  TILED_BLOCK = PANEL * PANEL,
  TILED_BLOCK_WORDS = PANEL * PANEL_STEP / 2,
};

/* Floats that panels of so many lanes by kc numbers take. */
INLINE size_t tiled_panels(size_t lanes, size_t kc) { return ceil_div(lanes, PANEL) * panel_words(kc, 1); }

static size_t attention_tiles_forward_floats(size_t T, size_t HS) {
  return tiled_panels(T, HS) + tiled_panels(HS, T) + tiled_panels(PANEL, HS) + TILED_HAND * PANEL +
         tiled_panels(PANEL, TILED_HAND) + round_up(HS, PANEL) * PANEL + TURNED;
}

static size_t attention_tiles_backward_floats(size_t T, size_t HS) {
  const size_t rows = round_up(T, PANEL), lanes = round_up(HS, PANEL);
  return 2 * tiled_panels(T, HS) + 2 * tiled_panels(HS, T) + rows * lanes + 2 * rows + 2 * tiled_panels(PANEL, HS) +
         tiled_panels(HS, PANEL) + 2 * TILED_HAND * PANEL + 3 * tiled_panels(PANEL, TILED_HAND) + 2 * lanes * PANEL +
         TURNED;
}

/* sums (32, 32) = or += a left panel times a right one. */
INLINE void tiled_block(float *sums, const uint32_t *left, const uint32_t *right, size_t steps, bool add) {
  amx_fence();
  if (add) tiled_load(sums, PANEL);
  else tiled_zero();
  for (size_t s = 0; s < steps; s++, left += 2 * PANEL_TILE, right += 2 * PANEL_TILE) {
    tiled_load_left(left, 0), tiled_load_right(right, 0), tiled_multiply();
  }
  tiled_store(sums, PANEL);
}

INLINE void tiled_pack(uint32_t *to, struct Factor from, size_t lanes, size_t kc, const bool right) {
  pack_panels(to, from, lanes, kc, NULL, right, 1);
}

/* Columns of rows t0 … t0 + count of T, as lanes of a left panel that holds all T. */
INLINE void tiled_pack_columns(uint32_t *to, struct ArrayView rows, size_t stride, size_t t0, size_t count, size_t T,
                               size_t HS) {
  to += t0 / PANEL_STEP * TILED_BLOCK_WORDS;
  pack_panels_as(to, panel_words(T, 1), head_rows(rows, stride, t0, true), HS, count, NULL, false, false, 1);
}

/* Rows `row` and row + 1 of 16 columns as a row of a right factor whose panel has 32 columns; v: which 16. */
INLINE void tiled_keep_pair(uint32_t *right, size_t row, size_t v, vf first, vf second) {
  const vi words = words_paired(words_along(first, second));
  memcpy(right + (row / PANEL_STEP * 2 + v) * PANEL_TILE + row % PANEL_STEP / 2 * TILE_WORDS, &words, sizeof words);
}

/* A row of 32 columns as a row of a left factor of one step. */
INLINE void tiled_keep_row(uint32_t *left, size_t row, vf first, vf second) {
  const vi words = words_along(first, second);
  memcpy(left + row * TILE_WORDS, &words, sizeof words);
}

/* What forward packs of one head, and the scratch memory of its strips. */
struct TiledKeys {
  uint32_t *keys;    // left panels (T, HS)
  uint32_t *values;  // left panels (HS, T)
  uint32_t *queries; // a right panel (32, HS)
  float *scores;     // (TILED_HAND, 32)
  uint32_t *weights; // a right panel (32, TILED_HAND)
  float *sums;       // (HS, 32)
};

INLINE struct TiledKeys tiled_keys(float *own, size_t T, size_t HS) {
  struct TiledKeys head = {.keys = (uint32_t *)(void *)own};
  head.values = head.keys + tiled_panels(T, HS);
  head.queries = head.values + tiled_panels(HS, T);
  head.scores = (float *)(void *)(head.queries + tiled_panels(PANEL, HS));
  head.weights = (uint32_t *)(void *)(head.scores + TILED_HAND * PANEL);
  head.sums = (float *)(void *)(head.weights + tiled_panels(PANEL, TILED_HAND));
  return head;
}

/* The softmax of 16 of a strip's queries over `used` keys from position k0 on. The weights of keys up to a whole step
 * are written, zero past the last one. Sums of before shrink where the maximum has grown. */
INLINE void tiled_softmax(const struct TiledKeys *head, vf *max, vf *total, size_t v, size_t used, size_t k0, size_t q0,
                          size_t HS) {
  const float scale = 1 / sqrtf((float)HS);
  const vi query = lane_numbers(q0 + v * VL);
  float *score = head->scores + v * VL;
  vf top = *max, sum = {0};
  for (size_t k = 0; k < used; k++) {
    vf x = scale * vload(score + k * PANEL);
    if (k0 + k > q0) x = vselect((int32_t)(k0 + k) > query, vsplat(-INFINITY), x);
    vstore(score + k * PANEL, x);
    top = vmax(x, top);
  }
  for (size_t k = 0; k < round_up(used, PANEL_STEP); k += 2) {
    const vf weight = k < used ? vexp(vload(score + k * PANEL) - top) : (vf){0};
    const vf next = k + 1 < used ? vexp(vload(score + (k + 1) * PANEL) - top) : (vf){0};
    tiled_keep_pair(head->weights, k, v, weight, next);
    sum += weight + next;
  }
  const vf shrink = vexp(*max - top);
  *max = top;
  *total = *total * shrink + sum;
  for (size_t i = 0; k0 > 0 && i < HS; i++) {
    float *s = head->sums + i * PANEL + v * VL;
    vstore(s, shrink * vload(s));
  }
}

/* 32 queries of one head from position q0 on. */
INLINE void attention_tiles_strip(const struct Attention *at, const struct TiledKeys *head, struct Array out, float *lse,
                                  struct ArrayView q, size_t q0) {
  const size_t HS = at->HS, T = at->T, stride = 3 * at->C, deep = panel_words(HS, 1), wide = panel_words(T, 1);
  const size_t queries = size_min(PANEL, T - q0), needed = q0 + queries;
  vf max[2], total[2];
  for (size_t v = 0; v < 2; v++) max[v] = vsplat(-INFINITY), total[v] = (vf){0};
  tiled_pack(head->queries, head_rows(q, stride, q0, false), queries, HS, true);
  for (size_t k0 = 0; k0 < needed; k0 += TILED_HAND) {
    const size_t used = size_min(TILED_HAND, needed - k0);
    for (size_t k = 0; k < used; k += PANEL) {
      tiled_block(head->scores + k * PANEL, head->keys + (k0 + k) / PANEL * deep, head->queries, ceil_div(HS, PANEL_STEP),
                  false);
    }
    for (size_t v = 0; v < 2; v++) tiled_softmax(head, &max[v], &total[v], v, used, k0, q0, HS);
    const uint32_t *values = head->values + k0 / PANEL_STEP * TILED_BLOCK_WORDS;
    for (size_t i = 0; i < HS; i += PANEL, values += wide) {
      tiled_block(head->sums + i * PANEL, values, head->weights, ceil_div(used, PANEL_STEP), k0 > 0);
    }
  }
  for (size_t v = 0; v < 2; v++) {
    for (size_t i = 0; i < HS; i++) {
      float *s = head->sums + i * PANEL + v * VL;
      vstore(s, vload(s) / total[v]);
    }
    for (size_t l = 0; l < VL && v * VL + l < queries; l++) lse[q0 + v * VL + l] = max[v][l] + logf(total[v][l]);
  }
  strip_store_turned(array_at(out, q0 * at->C), at->C, head->sums, PANEL, queries, HS);
}

static void attention_tiles_forward_task(void *argument, int thread, int threads) {
  const struct Attention *at = argument;
  const size_t T = at->T, C = at->C, HS = at->HS, NH = at->NH, stride = 3 * C;
  const struct AttentionClaims claims = attention_forward_claims(at->B * NH, ceil_div(T, PANEL), (size_t)threads);
  const struct TiledKeys head = tiled_keys(at->workers->own + (size_t)thread * at->workers->own_floats, T, HS);
  struct Near near = attention_near(&claims, at->workers->pool, thread, threads);
  amx_begin();
  for (size_t i; near_next(&near, &i);) {
    const struct AttentionClaim claim = attention_claimed(&claims, i, false);
    const size_t b = claim.head / NH, h = claim.head % NH;
    const struct ArrayView q = view_at(at->qkv, b * T * stride + h * HS), k = view_at(q, C), v = view_at(k, C);
    const size_t seen = size_min(T, attention_seen(&claims, claim, T, PANEL));
    tiled_pack(head.keys, head_rows(k, stride, 0, false), seen, HS, false);
    tiled_pack_columns(head.values, v, stride, 0, seen, T, HS);
    for (size_t q0 = claim.part * PANEL; q0 < T; q0 += claims.key_parts * PANEL) {
      attention_tiles_strip(at, &head, array_at(at->out, b * T * C + h * HS), at->lse + claim.head * T, q, q0);
    }
  }
  amx_end();
}

/* What backward packs of one head, once, and the scratch memory of its strips. Rows past T have weight 0 through
 * lse = infinity. */
struct TiledHead {
  uint32_t *q, *dy;                // left panels (T, HS)
  uint32_t *q_turned, *dy_turned;  // left panels (HS, T)
  uint32_t *k, *v;                 // of a strip: right panels (32, HS)
  uint32_t *k_rows;                // of a strip: right panels (HS, 32)
  uint32_t *weights, *dscores_right;  // right panels (32, TILED_HAND)
  uint32_t *dscores_left;          // left panels (TILED_HAND, 32)
  float *scores, *dscores;         // (TILED_HAND, 32)
  float *dq;                       // (HS / 32, T, 32)
  float *dk, *dv;                  // of a strip: (HS, 32)
  float *lse, *dy_y;               // (T)
};

INLINE struct TiledHead tiled_head(float *own, size_t T, size_t HS) {
  const size_t rows = round_up(T, PANEL), lanes = round_up(HS, PANEL);
  struct TiledHead head = {.q = (uint32_t *)(void *)own};
  head.dy = head.q + tiled_panels(T, HS);
  head.q_turned = head.dy + tiled_panels(T, HS);
  head.dy_turned = head.q_turned + tiled_panels(HS, T);
  head.k = head.dy_turned + tiled_panels(HS, T);
  head.v = head.k + tiled_panels(PANEL, HS);
  head.k_rows = head.v + tiled_panels(PANEL, HS);
  head.weights = head.k_rows + tiled_panels(HS, PANEL);
  head.dscores_right = head.weights + tiled_panels(PANEL, TILED_HAND);
  head.dscores_left = head.dscores_right + tiled_panels(PANEL, TILED_HAND);
  head.scores = (float *)(void *)(head.dscores_left + tiled_panels(TILED_HAND, PANEL));
  head.dscores = head.scores + TILED_HAND * PANEL;
  head.dq = head.dscores + TILED_HAND * PANEL;
  head.dk = head.dq + rows * lanes;
  head.dv = head.dk + lanes * PANEL;
  head.lse = head.dv + lanes * PANEL + TURNED;
  head.dy_y = head.lse + rows;
  return head;
}

/* `share`: which tiles of queries are packed, and whether for dk and dv too. */
INLINE void tiled_pack_head(const struct Attention *at, const struct TiledHead *head, const struct AttentionShare *share,
                            size_t b, size_t h) {
  const size_t T = at->T, C = at->C, HS = at->HS, stride = 3 * C;
  const struct ArrayView q = view_at(at->qkv, b * T * stride + h * HS);
  const struct ArrayView y = view_at(at->out_read, b * T * C + h * HS);
  const float *dy = at->dout + b * T * C + h * HS;
  for (size_t q0 = 0; q0 < T; q0 += TILED_HAND) {
    const size_t count = size_min(TILED_HAND, T - q0), at_q0 = q0 / PANEL * panel_words(HS, 1);
    if (!share_sees(share, q0, TILED_HAND)) continue;
    tiled_pack(head->q + at_q0, head_rows(q, stride, q0, false), count, HS, false);
    tiled_pack(head->dy + at_q0, head_rows(view_of(dy), C, q0, false), count, HS, false);
    if (share->keys) {
      tiled_pack_columns(head->q_turned, q, stride, q0, count, T, HS);
      tiled_pack_columns(head->dy_turned, view_of(dy), C, q0, count, T, HS);
    }
    for (size_t t = q0; t < q0 + round_up(count, PANEL); t++) {
      head->lse[t] = t < T ? at->lse_read[(b * at->NH + h) * T + t] : INFINITY;
      head->dy_y[t] = t < T ? array_dot(view_at(y, t * C), dy + t * C, HS) : 0;
    }
  }
}

/* The weights of a strip's keys, from k0 on, for two queries, and the gradients of their scores, as the factors of the
 * next products. row: of the queries in hand, which begin at q0. */
INLINE void tiled_dscores(const struct TiledHead *head, size_t row, size_t q0, size_t k0, float scale) {
  vf dscore[2][2];
  for (size_t v = 0; v < 2; v++) {
    vf weight[2];
    for (size_t i = 0; i < 2; i++) {
      const size_t query = q0 + row + i, at = (row + i) * PANEL + v * VL;
      weight[i] = vexp(scale * vload(head->scores + at) - head->lse[query]);
      if (query < k0 + PANEL) {
        weight[i] = vselect(lane_numbers(k0 + v * VL) > (int32_t)query, (vf){0}, weight[i]);
      }
      dscore[i][v] = scale * weight[i] * (vload(head->dscores + at) - head->dy_y[query]);
    }
    tiled_keep_pair(head->weights, row, v, weight[0], weight[1]);
    tiled_keep_pair(head->dscores_right, row, v, dscore[0][v], dscore[1][v]);
  }
  for (size_t i = 0; i < 2; i++) tiled_keep_row(head->dscores_left, row + i, dscore[i][0], dscore[i][1]);
}

/* 32 keys from position k0 on against all queries from there on: dk and dv are complete after it, dq collects one
 * strip's part. Of these the share may have one or the other. */
INLINE void attention_tiles_backward_strip(const struct Attention *at, const struct TiledHead *head,
                                           const struct AttentionShare *share, float *dk, float *dv, struct ArrayView k,
                                           struct ArrayView v, size_t k0) {
  const size_t HS = at->HS, T = at->T, stride = 3 * at->C, rows = round_up(T, PANEL), count = size_min(PANEL, T - k0);
  const size_t deep = panel_words(HS, 1), wide = panel_words(T, 1), steps = ceil_div(HS, PANEL_STEP);
  const float scale = 1 / sqrtf((float)HS);
  tiled_pack(head->k, head_rows(k, stride, k0, false), count, HS, true);
  tiled_pack(head->v, head_rows(v, stride, k0, false), count, HS, true);
  tiled_pack(head->k_rows, head_rows(k, stride, k0, true), HS, count, true);
  for (size_t q0 = k0, end; q0 < T; q0 = end) {
    end = share->keys ? q0 + TILED_HAND : round_up(q0 + 1, TILED_HAND);
    if (!share_sees(share, q0 / TILED_HAND * TILED_HAND, TILED_HAND)) continue;
    const size_t used = size_min(end, rows) - q0;
    for (size_t i = 0; i < used; i += PANEL) {
      const size_t panel = (q0 + i) / PANEL * deep;
      tiled_block(head->scores + i * PANEL, head->q + panel, head->k, steps, false);
      tiled_block(head->dscores + i * PANEL, head->dy + panel, head->v, steps, false);
    }
    for (size_t row = 0; row < used; row += 2) tiled_dscores(head, row, q0, k0, scale);
    for (size_t i = 0; i < HS; i += PANEL) {
      const size_t panel = i / PANEL * wide + q0 / PANEL_STEP * TILED_BLOCK_WORDS;
      if (share->keys) {
        tiled_block(head->dv + i * PANEL, head->dy_turned + panel, head->weights, used / PANEL_STEP, q0 > k0);
        tiled_block(head->dk + i * PANEL, head->q_turned + panel, head->dscores_right, used / PANEL_STEP, q0 > k0);
      }
      for (size_t t = 0; share->queries && t < used; t += PANEL) {
        tiled_block(head->dq + i * rows + (q0 + t) * PANEL, head->dscores_left + t / PANEL * TILED_BLOCK_WORDS,
                    head->k_rows + i / PANEL * TILED_BLOCK_WORDS, 1, k0 > 0);
      }
    }
  }
  if (!share->keys) return;
  strip_store_turned(array_of(dk + k0 * stride), stride, head->dk, PANEL, count, HS);
  strip_store_turned(array_of(dv + k0 * stride), stride, head->dv, PANEL, count, HS);
}

static void attention_tiles_backward_task(void *argument, int thread, int threads) {
  const struct Attention *at = argument;
  const size_t T = at->T, C = at->C, HS = at->HS, NH = at->NH, stride = 3 * C, rows = round_up(T, PANEL);
  const struct TiledHead head = tiled_head(at->workers->own + (size_t)thread * at->workers->own_floats, T, HS);
  const struct AttentionClaims claims =
      attention_backward_claims(at->B * NH, ceil_div(T, PANEL), ceil_div(T, TILED_HAND), (size_t)threads);
  struct Near near = attention_near(&claims, at->workers->pool, thread, threads);
  amx_begin();
  for (size_t n; near_next(&near, &n);) {
    const struct AttentionClaim claim = attention_claimed(&claims, n, true);
    const struct AttentionShare share = attention_share(&claims, claim, PANEL);
    const size_t b = claim.head / NH, h = claim.head % NH, offset = b * T * stride + h * HS;
    const struct ArrayView k = view_at(at->qkv, offset + C), v = view_at(k, C);
    float *dq = at->dqkv + offset;
    tiled_pack_head(at, &head, &share, b, h);
    for (size_t k0 = share.first; k0 < share_end(&share, T, TILED_HAND); k0 += share.strips * PANEL) {
      attention_tiles_backward_strip(at, &head, &share, dq + C, dq + 2 * C, k, v, k0);
    }
    for (size_t i = 0; share.queries && i < HS; i += PANEL) {
      for (size_t t = 0; t < T; t++) {
        if (!share_sees(&share, t / TILED_HAND * TILED_HAND, TILED_HAND)) continue;
        memcpy(dq + t * stride + i, head.dq + i * rows + t * PANEL, size_min(PANEL, HS - i) * sizeof *dq);
      }
    }
  }
  amx_end();
}
