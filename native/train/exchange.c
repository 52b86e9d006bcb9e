#include "train/exchange.h"

#include <string.h>

#include "base/pool.h"
#include "base/util.h"
#include "kernels/moments.h"

void exchange_layout(struct Team *team, struct Arena *arena) {
  const size_t N = (size_t)team->ranks.count, numbers = N * EXCHANGE_PIECE;
  team->received = arena_alloc(arena, numbers, dtype_size(team->exchange_dtype));
  if (team->exchange_dtype == BF16) team->packed = arena_alloc(arena, numbers, dtype_size(BF16));
}

/* ---- adding ------------------------------------------------------------------------------------- */

/* The sum of the shares before a round, and rows of a piece: one of each of its shares, in order. */
struct Addition {
  float *sum;
  struct ArrayView rows;
  size_t stride, count, n;  // numbers from row to row; rows; numbers in each
  bool begins;              // with the first row: there is no sum yet
};

/* sum (n) += row, from its number `at` on */
static void add_row(float *restrict sum, struct ArrayView rows, size_t at, size_t n) {
  if (rows.dtype == FP32) {
    const float *restrict row = (const float *)rows.data + at;
    for (size_t i = 0; i < n; i++) sum[i] += row[i];
  } else {
    const uint16_t *restrict row = (const uint16_t *)rows.data + at;
    for (size_t i = 0; i < n; i++) sum[i] += float_of_bits((uint32_t)row[i] << 16);
  }
}

static void add_task(void *argument, int thread, int threads) {
  enum { STRIP = 1024 };  // floats that stay in the first cache while the rows are added
  const struct Addition *a = argument;
  size_t begin, end;
  pool_part(a->n, 16, thread, threads, &begin, &end);
  for (size_t at = begin; at < end; at += STRIP) {
    const size_t n = size_min(STRIP, end - at);
    float sum[STRIP];
    if (a->begins) for (size_t i = 0; i < n; i++) sum[i] = -0.0f;  // which adds nothing, and keeps a zero's sign
    else memcpy(sum, a->sum + at, n * sizeof *sum);
    for (size_t row = 0; row < a->count; row++) add_row(sum, a->rows, row * a->stride + at, n);
    memcpy(a->sum + at, sum, n * sizeof *sum);
  }
}

/* ---- rounding ----------------------------------------------------------------------------------- */

/* Number `place` of all parameters. */
static uint16_t rounded(float x, uint64_t key, size_t place) { return moments_bf16(x, moments_random(key, place) & 0xffff); }

/* Numbers of the gradient as BF16. */
struct Rounding {
  uint16_t *to;
  const float *from;
  size_t n, place;  // of the first among all parameters
  uint64_t key;
};

static void round_task(void *argument, int thread, int threads) {
  const struct Rounding *r = argument;
  size_t begin, end;
  pool_part(r->n, 64, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) r->to[i] = rounded(r->from[i], r->key, r->place + i);
}

/* The same in place: floats that BF16 holds. */
struct Narrowing {
  float *x;
  size_t n;
  uint64_t key;
};

static void narrow_task(void *argument, int thread, int threads) {
  const struct Narrowing *narrowing = argument;
  float *restrict x = narrowing->x;
  size_t begin, end;
  pool_part(narrowing->n, 64, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    x[i] = float_of_bits((uint32_t)rounded(x[i], narrowing->key, i) << 16);
  }
}

static uint64_t share_key(const struct Gpt2 *model, size_t step, size_t share) {
  return mix64(mix64(mix64(model->dropout.seed) + step) + share);
}

/* ---- messages ----------------------------------------------------------------------------------- */

/* The numbers of rank r's run from its `first` on, one piece. */
static size_t piece_of(const struct Team *team, size_t r, size_t first) {
  const size_t own = team->cuts[r + 1] - team->cuts[r];
  return first < own ? size_min(EXCHANGE_PIECE, own - first) : 0;
}

/* Sends each rank its piece of the own share, rounded, and gets the own one of theirs. Two BF16 travel as a float. */
static void exchange_rounded(struct Team *team, const struct Gpt2 *model, uint64_t key, size_t first) {
  const size_t N = (size_t)team->ranks.count;
  size_t cuts[RANKS_MOST + 1] = {0};
  for (size_t r = 0; r < N; r++) {
    const size_t n = piece_of(team, r, first), place = team->cuts[r] + first;
    struct Rounding rounding = {(uint16_t *)(void *)(team->packed + cuts[r]), model->grads.first + place, n, place, key};
    pool_run(model->workers.pool, "rounding", round_task, &rounding);
    cuts[r + 1] = cuts[r] + ceil_div(n, 2);
  }
  ranks_exchange(&team->ranks, team->received, team->packed, cuts, 0, EXCHANGE_PIECE / 2);
}

static void add_of_ranks(struct Team *team, const struct Gpt2 *model, struct Addition addition, uint64_t key) {
  const size_t N = (size_t)team->ranks.count;
  float *sum = addition.sum;
  size_t longest = 0;
  for (size_t r = 0; r < N; r++) longest = size_max(longest, team->cuts[r + 1] - team->cuts[r]);
  addition.rows = (struct ArrayView){team->received, team->exchange_dtype}, addition.stride = EXCHANGE_PIECE;
  for (size_t at = 0; at < longest; at += EXCHANGE_PIECE) {
    if (team->exchange_dtype == BF16) exchange_rounded(team, model, key, at);
    else ranks_exchange(&team->ranks, team->received, model->grads.first, team->cuts, at, EXCHANGE_PIECE);
    addition.sum = sum + at, addition.n = piece_of(team, (size_t)team->ranks.rank, at);
    if (addition.n > 0) pool_run(model->workers.pool, "shares", add_task, &addition);
  }
}

/* In one process. */
static void add_alone(const struct Team *team, const struct Gpt2 *model, struct Addition addition, uint64_t key) {
  if (team->exchange_dtype == BF16) {
    struct Narrowing narrowing = {model->grads.first, model->count, key};
    pool_run(model->workers.pool, "rounding", narrow_task, &narrowing);
  }
  if (model->total == NULL) return;
  addition.rows = view_of(model->grads.first), addition.n = model->count;
  pool_run(model->workers.pool, "shares", add_task, &addition);
}

void exchange_shares(struct Team *team, struct Gpt2 *model, size_t step, size_t first) {
  const size_t N = (size_t)team->ranks.count;
  const uint64_t key = share_key(model, step, first + (size_t)team->ranks.rank);
  const struct Addition addition = {.sum = model->total != NULL ? model->total : model->grads.first + model->own[0].floats,
                                    .count = size_min(N, team->shares - first), .begins = first == 0};
  if (N == 1) add_alone(team, model, addition, key);
  else add_of_ranks(team, model, addition, key);
}
