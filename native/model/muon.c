#include "model/muon.h"

#include <math.h>

#include "base/pool.h"
#include "base/util.h"

static const double MOMENTUM = 0.95, LEAST_NORM = 1e-7;
/* Newton-Schulz: each singular value x becomes x (A + B x^2 + C x^4), STEPS times. Of a matrix of norm 1, those above 0.002
 * end between 0.68 and 1.21. */
static const float A = 3.4445f, B = -4.7750f, C = 2.0315f;
enum { STEPS = 5, STEPS_AT_ONCE = 3 };

/* Numbers in the places of all threads, when each has its own. Then no thread waits for another within a matrix, which is
 * faster wherever it was measured; but of large models on many threads it is too much memory. */
enum { ALONE_FLOATS = 1 << 24 };

static size_t room_floats(size_t channels) { return size_product(8, size_product(channels, channels)); }

struct MuonScratch muon_scratch(struct Arena *arena, const struct Kernels *kernels, size_t threads, size_t channels) {
  const bool alone = size_product(threads, room_floats(channels)) <= ALONE_FLOATS;
  const size_t packed = alone ? kernels->shared_floats(4 * channels) : 0;
  const size_t floats = round_up(room_floats(channels) + packed, 16);
  float *first = arena_alloc(arena, size_product(alone ? threads : 1, floats), sizeof *first);
  return (struct MuonScratch){first, channels, floats, alone};
}

/* ---- momentum ----------------------------------------------------------------------------------- */

struct MomentumTask {
  float *grads;
  struct Moments moments;
  double scale;
  uint64_t key;
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
    momentum_floats(task->grads + i, m, task->scale, n);
    moments_store(moments, m, zeros, task->key, i, n);
  }
}

double muon_momentum(const struct Kernels *kernels, const struct Workers *workers, struct Moments moments, float *grads,
                     double scale, uint64_t key, size_t n) {
  const double squares = kernels->sum_squares(workers, grads, n);
  pool_run(workers->pool, "muon_momentum", momentum_task, &(struct MomentumTask){grads, moments, scale, key, n});
  return squares;
}

/* ---- orthogonalisation -------------------------------------------------------------------------- */

/* Places in the scratch memory. */
struct Room {
  float *next;                      // (4C, C) or (C, 4C)
  float *gram, *p, *q, *made;       // (C, C)
  float *packed;                    // Workers.shared of a thread alone
};

static struct Room room_of(const struct MuonScratch *scratch, int thread) {
  const size_t square = scratch->C * scratch->C;
  float *at = scratch->first + (size_t)thread * scratch->floats;
  return (struct Room){at, at + 4 * square, at + 5 * square, at + 6 * square, at + 7 * square,
                       at + room_floats(scratch->C)};
}

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

/* So many steps. One makes p x of x, with p = A + B G + C G G and G = x xᵀ, and thereby p G p of G. So G and the product
 * q of the p are followed alone, in small matrices, and q x is made once. Where there are more rows than columns,
 * G = xᵀ x is the smaller one, and the result x q. */
static void newton_schulz(const struct Kernels *k, const struct Workers *w, struct Room room, float *out,
                          const float *x, size_t rows, size_t columns, int steps) {
  const size_t n = size_min(rows, columns);
  float *gram = room.gram, *p = room.p, *q = room.q, *made = room.made;
  k->linear_symmetric(w, gram, x, x, n, size_max(rows, columns), rows > columns);
  for (int step = 0; step < steps; step++) {
    float *polynomial = step == 0 ? q : p;
    k->linear_symmetric(w, polynomial, gram, gram, n, n, true);
    combine(w, (struct Combination){polynomial, gram, B, C, n * n});
    for (size_t i = 0; i < n; i++) polynomial[i * n + i] += A;
    if (step > 0) {
      k->linear_symmetric(w, made, q, p, n, n, true);
      float *before = q;
      q = made, made = before;
    }
    if (step + 1 == steps) break;
    k->linear_symmetric(w, made, gram, polynomial, n, n, true);
    k->linear_symmetric(w, gram, polynomial, made, n, n, true);
  }
  if (rows <= columns) k->linear_backward_input(w, out, q, x, rows, rows, columns);
  else k->linear_backward_input(w, out, x, q, rows, columns, columns);
}

static void orthogonal_update(const struct Kernels *k, const struct Workers *w, struct Room room, double lr,
                              double weight_decay, struct MuonMatrix a) {
  const size_t n = a.rows * a.columns;
  const double norm = fmax(sqrt(k->sum_squares(w, a.update, n)), LEAST_NORM);
  float *from = room.next, *to = a.update;
  combine(w, (struct Combination){from, a.update, (float)(1 / norm), 0, n});
  const int most = a.rows == a.columns ? 1 : STEPS_AT_ONCE;
  for (int left = STEPS, steps; left > 0; left -= steps) {
    steps = left < most ? left : most;
    newton_schulz(k, w, room, to, from, a.rows, a.columns, steps);
    float *made = to;
    to = from, from = made;
  }
  const double size = 0.2 * sqrt((double)size_max(a.rows, a.columns));
  combine(w, (struct Combination){a.params, from, (float)(-lr * size), (float)(1 - lr * weight_decay), n});
}

struct StepTask {
  const struct Kernels *kernels;
  const struct Workers *workers;
  const struct MuonScratch *scratch;
  double lr, weight_decay;
  const struct MuonMatrix *matrices;
  size_t count;
};

/* The last matrices of a block are the largest, so it goes from the last to the first. */
static void step_task(void *argument, int thread, int threads) {
  const struct StepTask *task = argument;
  (void)threads;
  struct Workers own = *task->workers;
  const struct Room room = room_of(task->scratch, thread);
  own.pool = pool_alone(own.pool, thread), own.shared = room.packed, own.own += (size_t)thread * own.own_floats;
  for (size_t i; (i = pool_claim(task->workers->pool)) < task->count;) {
    orthogonal_update(task->kernels, &own, room, task->lr, task->weight_decay, task->matrices[task->count - 1 - i]);
  }
}

void muon_step(const struct Kernels *kernels, const struct Workers *workers, struct MuonScratch scratch,
               double lr, double weight_decay, const struct MuonMatrix *matrices, size_t count) {
  struct StepTask task = {kernels, workers, &scratch, lr, weight_decay, matrices, count};
  if (scratch.alone) {
    pool_run(workers->pool, "muon", step_task, &task);
    return;
  }
  const struct Room room = room_of(&scratch, 0);
  for (size_t i = 0; i < count; i++) orthogonal_update(kernels, workers, room, lr, weight_decay, matrices[i]);
}
