/* Causal attention, tiled, with an online softmax: no row of scores is ever stored.
 *
 * After FlashAttention (Dao et al. 2022), laid out so that nothing is summed across a vector. Forward
 * works on strips of NR queries, one query to a lane: the scores of a tile of keys are kᵀ-panels times
 * a panel of qᵀ, their maximum and sum run down the lanes, and the strip of weights is, as it stands,
 * the right factor of the product with the values. Backward does the same with one key to a lane.
 *
 * The work is claimed by (batch, head) pairs; each is computed by one thread in one order.
 */

enum { TILE = 128 / MR * MR };  // rows of the left factor that are in hand at once

struct Attention {
  const struct Workers *workers;
  struct Array out, qkv;   // forward writes (B, T, C); (B, T, 3C)
  float *lse;              // and (B, NH, T)
  float *dqkv;             // backward writes (B, T, 3C)
  const float *dout, *lse_read;
  size_t B, T, C, NH, HS;
  size_t first;            // position of the first query: those before it are in a cache
};

/* Lengths of the packed blocks, all lanes filled up: rows of T and of HS as left or right factor. */
INLINE size_t rows_left(size_t n) { return round_up(n, MR); }
INLINE size_t rows_right(size_t n) { return round_up(n, NR); }

static size_t attention_forward_floats(size_t T, size_t HS) {
  return rows_left(T) * HS + rows_left(HS) * T + HS * NR + TILE * NR + rows_left(HS) * NR;
}

static size_t attention_backward_floats(size_t T, size_t HS) {
  size_t rows = rows_left(T);
  return 2 * rows * HS + 2 * rows_left(HS) * rows + rows * rows_right(HS) + 2 * rows +
         2 * HS * NR + NR * rows_right(HS) + 2 * TILE * NR + rows_left(TILE) * NR + 2 * rows_left(HS) * NR;
}

/* dst (rows, columns = NR) = or += left panels (kc, rows) times one right panel (kc, NR) */
INLINE void strip_product(float *dst, const float *left, const float *right, size_t rows, size_t kc, int add) {
  for (size_t i = 0; i < rows; i += MR) {
    vf acc[MR][NRV];
    gemm_tile(acc, left + i * kc, right, kc, false);
#pragma GCC unroll 16
    for (size_t r = 0; r < MR; r++) {
#pragma GCC unroll 4
      for (size_t v = 0; v < NRV; v++) {
        float *at = dst + (i + r) * NR + v * VL;
        vstore(at, add ? acc[r][v] + vload(at) : acc[r][v]);
      }
    }
  }
}

INLINE vi lane_numbers(size_t from) {
  vi lane;
  for (int i = 0; i < VL; i++) lane[i] = (int32_t)from + i;
  return lane;
}

/* Row t, column i of dst is column t, row i of the strip (n, NR): the way back to memory order. */
static void strip_store_turned(struct Array dst, size_t stride, const float *strip, size_t rows, size_t n) {
  for (size_t t = 0; t < rows; t++) {
    for (size_t i = 0; i < n; i++) array_set(dst, t * stride + i, strip[i * NR + t]);
  }
}

/* Rows of one head of queries, keys or values from row t0 on, to be packed: a lane is a row, or with
 * `turned` a column. */
INLINE struct Factor head_rows(struct Array head, size_t stride, size_t t0, bool turned) {
  head = array_at(head, t0 * stride);
  return turned ? (struct Factor){head, 1, stride} : (struct Factor){head, stride, 1};
}

/* The queries at positions q0 … q0 + NR of one head; lse may be NULL. keys: left panels (HS, T); values: for each
 * tile of keys, left panels (keys of the tile, HS), the tiles one after the other. */
static void attention_strip(const struct Attention *at, struct Array out, float *lse, struct Array q,
                            const float *keys, const float *values, float *scratch, size_t q0) {
  const size_t HS = at->HS, T = at->T, stride = 3 * at->C;
  const float scale = 1 / sqrtf((float)HS);
  size_t queries = size_min(NR, T - q0);
  float *q_panel = scratch, *weights = q_panel + HS * NR, *sums = weights + TILE * NR;
  pack_right(q_panel, head_rows(q, stride, q0 - at->first, false), queries, HS, FP32);
  memset(sums, 0, rows_left(HS) * NR * sizeof(float));
  vf max[NRV], total[NRV];
  for (size_t v = 0; v < NRV; v++) max[v] = vsplat(-INFINITY), total[v] = (vf){0};

  size_t needed = size_min(T, q0 + NR);
  for (size_t k0 = 0; k0 < needed; k0 += TILE) {
    size_t tile = size_min(TILE, T - k0), used = size_min(tile, needed - k0);
    strip_product(weights, keys + k0 * HS, q_panel, rows_left(used), HS, 0);
    vf top[NRV], shrink[NRV], sum[NRV];
#pragma GCC unroll 4
    for (size_t v = 0; v < NRV; v++) top[v] = max[v], sum[v] = (vf){0};
    for (size_t k = 0; k < used; k++) {
#pragma GCC unroll 4
      for (size_t v = 0; v < NRV; v++) {
        float *w = weights + k * NR + v * VL;
        vf score = scale * vload(w);
        if (k0 + k > q0) score = vselect((int32_t)(k0 + k) > lane_numbers(q0 + v * VL), vsplat(-INFINITY), score);
        vstore(w, score);
        top[v] = vmax(score, top[v]);
      }
    }
    for (size_t k = 0; k < used; k++) {
#pragma GCC unroll 4
      for (size_t v = 0; v < NRV; v++) {
        float *w = weights + k * NR + v * VL;
        vf weight = vexp(vload(w) - top[v]);
        vstore(w, weight);
        sum[v] += weight;
      }
    }
#pragma GCC unroll 4
    for (size_t v = 0; v < NRV; v++) {
      shrink[v] = vexp(max[v] - top[v]);
      max[v] = top[v];
      total[v] = total[v] * shrink[v] + sum[v];
    }
    for (size_t i = 0; i < HS; i++) {
      for (size_t v = 0; v < NRV; v++) {
        float *s = sums + i * NR + v * VL;
        vstore(s, shrink[v] * vload(s));
      }
    }
    /* The panels of a tile are as deep as the tile; a strip on the diagonal uses their first rows. */
    const float *tile_values = values + k0 * rows_left(HS);
    for (size_t i = 0; i < HS; i += MR) strip_product(sums + i * NR, tile_values + i * tile, weights, MR, used, 1);
  }
  for (size_t v = 0; v < NRV; v++) {
    for (size_t i = 0; i < HS; i++) {
      float *s = sums + i * NR + v * VL;
      vstore(s, vload(s) / total[v]);
    }
    for (size_t l = 0; lse != NULL && l < VL && v * VL + l < queries; l++) {
      lse[q0 + v * VL + l] = max[v][l] + logf(total[v][l]);
    }
  }
  strip_store_turned(array_at(out, (q0 - at->first) * at->C), at->C, sums, queries, HS);
}

static void attention_forward_task(void *argument, int thread, int threads) {
  const struct Attention *at = argument;
  const size_t T = at->T, C = at->C, HS = at->HS, NH = at->NH, stride = 3 * C;
  float *keys = at->workers->own + (size_t)thread * at->workers->own_floats;
  float *values = keys + rows_left(T) * HS, *scratch = values + rows_left(HS) * T;
  (void)threads;
  for (size_t pair; (pair = pool_claim(at->workers->pool)) < at->B * NH;) {
    size_t b = pair / NH, h = pair % NH;
    const struct Array q = array_at(at->qkv, b * T * stride + h * HS), k = array_at(q, C), v = array_at(k, C);
    pack_left(keys, head_rows(k, stride, 0, false), T, HS, FP32);
    for (size_t k0 = 0; k0 < T; k0 += TILE) {
      pack_left(values + k0 * rows_left(HS), head_rows(v, stride, k0, true), HS, size_min(TILE, T - k0), FP32);
    }
    for (size_t q0 = 0; q0 < T; q0 += NR) {
      attention_strip(at, array_at(at->out, b * T * C + h * HS), at->lse + pair * T, q, keys, values, scratch, q0);
    }
  }
}

static void attention_forward(const struct Workers *workers, struct Array out, float *lse, struct Array qkv,
                              size_t B, size_t T, size_t C, size_t NH) {
  struct Attention at = {.workers = workers, .out = out, .lse = lse, .qkv = qkv,
                         .B = B, .T = T, .C = C, .NH = NH, .HS = C / NH};
  pool_run(workers->pool, "attention_forward", attention_forward_task, &at);
}

INLINE float array_dot(struct Array a, const float *b, size_t n) {
  vf sums = {0};
  float tail = 0;
  size_t i = 0;
  for (; i + VL <= n; i += VL) sums += vload_array(a, i) * vload(b + i);
  for (; i < n; i++) tail += array_get(a, i) * b[i];
  return vsum(sums) + tail;
}

/* What backward packs of one head, once. Left panels: (HS, T) of the queries and of dout, and by tiles
 * of queries (tile, HS) of the same two. */
struct Head {
  float *q, *dy, *q_tiles, *dy_tiles;
  float *dq;               // (T, HS), the columns filled up to right panels
  float *lse, *dy_y;       // (T): rows past T have weight 0 through lse = infinity
  float *scratch;
};

static struct Head attention_pack_head(const struct Attention *at, float *own, size_t b, size_t h) {
  const size_t T = at->T, C = at->C, HS = at->HS, stride = 3 * C, rows = rows_left(T);
  struct Head head = {.q = own};
  head.dy = head.q + rows * HS;
  head.q_tiles = head.dy + rows * HS;
  head.dy_tiles = head.q_tiles + rows * rows_left(HS);
  head.dq = head.dy_tiles + rows * rows_left(HS);
  head.lse = head.dq + rows * rows_right(HS);
  head.dy_y = head.lse + rows;
  head.scratch = head.dy_y + rows;

  const struct Array q = array_at(at->qkv, b * T * stride + h * HS), y = array_at(at->out, b * T * C + h * HS);
  const float *dy = at->dout + b * T * C + h * HS;
  pack_left(head.q, head_rows(q, stride, 0, false), T, HS, FP32);
  pack_left(head.dy, head_rows(array_of(dy), C, 0, false), T, HS, FP32);
  for (size_t q0 = 0; q0 < T; q0 += TILE) {
    size_t tile = size_min(TILE, T - q0);
    pack_left(head.q_tiles + q0 * rows_left(HS), head_rows(q, stride, q0, true), HS, tile, FP32);
    pack_left(head.dy_tiles + q0 * rows_left(HS), head_rows(array_of(dy), C, q0, true), HS, tile, FP32);
  }
  memset(head.dq, 0, rows * rows_right(HS) * sizeof(float));
  for (size_t t = 0; t < rows; t++) {
    head.lse[t] = t < T ? at->lse_read[(b * at->NH + h) * T + t] : INFINITY;
    head.dy_y[t] = t < T ? array_dot(array_at(y, t * C), dy + t * C, HS) : 0;
  }
  return head;
}

/* Keys k0 … k0 + NR of one head against all queries from k0 on: their dk and dv are complete after it,
 * dq collects one strip's part. */
static void attention_backward_strip(const struct Attention *at, const struct Head *head, float *dk,
                                     float *dv, struct Array k, struct Array v, size_t k0) {
  const size_t HS = at->HS, T = at->T, stride = 3 * at->C;
  const float scale = 1 / sqrtf((float)HS);
  size_t count = size_min(NR, T - k0);
  float *k_turned = head->scratch, *v_turned = k_turned + HS * NR, *k_rows = v_turned + HS * NR;
  float *weights = k_rows + NR * rows_right(HS), *dscores = weights + TILE * NR;
  float *dscores_left = dscores + TILE * NR;
  float *dk_strip = dscores_left + rows_left(TILE) * NR, *dv_strip = dk_strip + rows_left(HS) * NR;
  pack_right(k_turned, head_rows(k, stride, k0, false), count, HS, FP32);
  pack_right(v_turned, head_rows(v, stride, k0, false), count, HS, FP32);
  memset(k_rows, 0, NR * rows_right(HS) * sizeof(float));
  for (size_t j = 0; j < HS; j += NR) {
    for (size_t i = 0; i < count; i++) {
      for (size_t c = j; c < size_min(j + NR, HS); c++) {
        k_rows[j * NR + i * NR + c - j] = array_get(k, (k0 + i) * stride + c);
      }
    }
  }
  memset(dk_strip, 0, 2 * rows_left(HS) * NR * sizeof(float));

  /* The first tile begins where queries see these keys. */
  for (size_t tile0 = k0 / TILE * TILE, q0 = k0 / MR * MR; tile0 < T; q0 = tile0 += TILE) {
    const size_t tile = size_min(TILE, T - tile0), skip = q0 - tile0, used = tile - skip, rows = rows_left(used);
    strip_product(weights, head->q + q0 * HS, k_turned, rows, HS, 0);
    strip_product(dscores, head->dy + q0 * HS, v_turned, rows, HS, 0);
    for (size_t t = 0; t < rows; t++) {
      for (size_t j = 0; j < NRV; j++) {
        float *w = weights + t * NR + j * VL, *d = dscores + t * NR + j * VL;
        vf weight = vexp(scale * vload(w) - head->lse[q0 + t]);
        if (q0 + t < k0 + NR) {
          weight = vselect(lane_numbers(k0 + j * VL) > (int32_t)(q0 + t), (vf){0}, weight);
        }
        vstore(w, weight);
        vstore(d, scale * weight * (vload(d) - head->dy_y[q0 + t]));
      }
    }
    const float *q_tile = head->q_tiles + tile0 * rows_left(HS), *dy_tile = head->dy_tiles + tile0 * rows_left(HS);
    for (size_t i = 0; i < HS; i += MR) {
      const size_t panel = i * tile + skip * MR;
      strip_product(dv_strip + i * NR, dy_tile + panel, weights, MR, used, 1);
      strip_product(dk_strip + i * NR, q_tile + panel, dscores, MR, used, 1);
    }
    pack_left(dscores_left, head_rows(array_of(dscores), NR, 0, false), rows, NR, FP32);
    for (size_t j = 0; j < rows_right(HS); j += NR) {
      strip_product(head->dq + j * rows_left(T) + q0 * NR, dscores_left, k_rows + j * NR, rows, NR, 1);
    }
  }
  strip_store_turned(array_of(dk + k0 * stride), stride, dk_strip, count, HS);
  strip_store_turned(array_of(dv + k0 * stride), stride, dv_strip, count, HS);
}

static void attention_backward_task(void *argument, int thread, int threads) {
  const struct Attention *at = argument;
  const size_t T = at->T, C = at->C, HS = at->HS, NH = at->NH, stride = 3 * C;
  float *own = at->workers->own + (size_t)thread * at->workers->own_floats;
  (void)threads;
  for (size_t pair; (pair = pool_claim(at->workers->pool)) < at->B * NH;) {
    size_t b = pair / NH, h = pair % NH, offset = b * T * stride + h * HS;
    struct Head head = attention_pack_head(at, own, b, h);
    const struct Array k = array_at(at->qkv, offset + C), v = array_at(k, C);
    float *dq = at->dqkv + offset, *dk = dq + C, *dv = dk + C;
    for (size_t k0 = 0; k0 < T; k0 += NR) attention_backward_strip(at, &head, dk, dv, k, v, k0);
    for (size_t j = 0; j < HS; j += NR) {
      for (size_t t = 0; t < T; t++) {
        memcpy(dq + t * stride + j, head.dq + j * rows_left(T) + t * NR, size_min(NR, HS - j) * sizeof(float));
      }
    }
  }
}

static void attention_backward(const struct Workers *workers, float *dqkv, const float *dout,
                               struct Array qkv, struct Array out, const float *lse,
                               size_t B, size_t T, size_t C, size_t NH) {
  struct Attention at = {.workers = workers, .dqkv = dqkv, .dout = dout, .qkv = qkv, .out = out,
                         .lse_read = lse, .B = B, .T = T, .C = C, .NH = NH, .HS = C / NH};
  pool_run(workers->pool, "attention_backward", attention_backward_task, &at);
}
