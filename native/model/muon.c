#include "model/muon.h"

#include <math.h>

#include "base/pool.h"
#include "base/util.h"

static const double MOMENTUM = 0.95, LEAST_NORM = 1e-7;
/* Newton-Schulz: each singular value x becomes x (A + B x^2 + C x^4), STEPS times. Of a matrix of norm 1, those above 0.002
 * end between 0.68 and 1.21. */
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;
enum { STEPS = 5 };

struct MuonScratch muon_scratch(struct Arena *arena, size_t channels) {
  const size_t square = size_product(channels, channels);
  return (struct MuonScratch){.next = arena_alloc(arena, size_product(4, square), sizeof(float)),
                              .gram = arena_alloc(arena, square, sizeof(float)),
                              .square = arena_alloc(arena, square, sizeof(float))};
}

/* ---- momentum ----------------------------------------------------------------------------------- */

struct MomentumTask {
  float *grads;
  struct Moments moments;
  const struct Muon *muon;
  size_t n;
};

/* The momentum follows the gradient, and the gradient becomes what Nesterov's update takes. */
static void momentum_floats(float *restrict grads, float *restrict m, double scale, size_t n) {
  const float by = (float)scale, new = (float)(1 - MOMENTUM);
  for (size_t i = 0; i < n; i++) {
    const float g = by * grads[i], mean = m[i] + new * (g - m[i]);
    m[i] = mean;
    grads[i] = mean + new * (g - mean);
  }
}

static void momentum_task(void *argument, int thread, int threads) {
  const struct MomentumTask *task = argument;
  const enum MomentsType type = task->moments.type;
  size_t begin, end;
  pool_part(task->n, MOMENTS_BLOCK, thread, threads, &begin, &end);
  float m[MOMENTS_BLOCK], zeros[MOMENTS_BLOCK] = {0};
  char none[MOMENTS_BLOCK * sizeof(float)] = {0};  // the place of v
  for (size_t i = begin; i < end; i += MOMENTS_BLOCK) {
    const size_t n = size_min(MOMENTS_BLOCK, end - i);
    const struct Moments moments = {type, task->moments.m + moments_bytes(type, i), none};
    moments_load(m, zeros, moments, n);
    momentum_floats(task->grads + i, m, task->muon->scale, n);
    moments_store(moments, m, zeros, task->muon->key, i, n);
  }
}

/* ---- orthogonalisation -------------------------------------------------------------------------- */

/* out (n) = x_part * x + out_part * out; with out_part 0, out is only written */
struct Combination {
  float *out;
  const float *x;
  float x_part, out_part;
  size_t n;
};

static void combine_task(void *argument, int thread, int threads) {
  const struct Combination c = *(const struct Combination *)argument;
  size_t begin, end;
  pool_part(c.n, 16, thread, threads, &begin, &end);
  if (c.out_part == 0) {
    for (size_t i = begin; i < end; i++) c.out[i] = c.x_part * c.x[i];
  } else {
    for (size_t i = begin; i < end; i++) c.out[i] = c.x_part * c.x[i] + c.out_part * c.out[i];
  }
}

static void combine(const struct Workers *workers, struct Combination combination) {
  pool_run(workers->pool, "muon_combine", combine_task, &combination);
}

/* out = (A + B G + C G G) x  with  G = x xᵀ, or where there are more rows than columns
 * out = x (A + B G + C G G)  with  G = xᵀ x, which is the smaller one then. */
static void newton_schulz(const struct Kernels *k, const struct Workers *w, struct MuonScratch scratch, float *out,
                          const float *x, size_t rows, size_t columns) {
  const size_t least = size_min(rows, columns);
  float *gram = scratch.gram, *square = scratch.square;
  if (rows <= columns) {
    k->linear_forward(w, (struct Linear){.M = rows, .N = rows, .K = columns,
        .out = array_of(gram), .inp = view_of(x), .weight = x});
  } else {
    k->linear_backward_weight(w, (struct LinearBackwardWeight){.M = rows, .N = columns, .K = columns,
        .dweight = gram, .dout = x, .inp = view_of(x)});
  }
  k->linear_backward_input(w, square, gram, gram, least, least, least);
  combine(w, (struct Combination){square, gram, B, C, least * least});
  for (size_t i = 0; i < least; i++) square[i * least + i] += A;
  if (rows <= columns) k->linear_backward_input(w, out, square, x, rows, rows, columns);
  else k->linear_backward_input(w, out, x, square, rows, columns, columns);
}

/* One matrix, whose update before that is x. */
static void orthogonal_update(const struct Kernels *k, const struct Workers *w, struct MuonScratch scratch, float *params,
                              float *x, const struct Muon *muon, size_t rows, size_t columns) {
  const size_t n = rows * columns;
  const double norm = fmax(sqrt(k->sum_squares(w, x, n)), LEAST_NORM);
  float *from = scratch.next, *to = x;
  combine(w, (struct Combination){from, x, (float)(1 / norm), 0, n});
  for (int step = 0; step < STEPS; step++) {
    newton_schulz(k, w, scratch, to, from, rows, columns);
    float *made = to;
    to = from, from = made;
  }
  const double size = 0.2 * sqrt((double)size_max(rows, columns));
  combine(w, (struct Combination){params, from, (float)(-muon->lr * size), (float)(1 - muon->lr * muon->weight_decay), n});
}

double muon_update(const struct Kernels *kernels, const struct Workers *workers, struct MuonScratch scratch, float *params,
                   struct Moments moments, float *grads, const struct Muon *muon, struct Matrices shape) {
  const size_t each = shape.rows * shape.columns;
  struct MomentumTask task = {grads, moments, muon, shape.count * each};
  const double squares = kernels->sum_squares(workers, grads, task.n);
  pool_run(workers->pool, "muon_momentum", momentum_task, &task);
  for (size_t i = 0; i < shape.count; i++) {
    orthogonal_update(kernels, workers, scratch, params + i * each, grads + i * each, muon, shape.rows, shape.columns);
  }
  return squares;
}
