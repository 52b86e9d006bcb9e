/* The update, and sums of squares for the norm of the gradient.
 *
 * Both go through memory once and do little with it, so the update sums the squares of the gradient too:
 * a second visit to half a gigabyte would cost a fifth of it.
 */

static double squares_of(const float *x, size_t n) {
  vf acc[4] = {0};
  size_t i = 0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
      vf v = vload(x + i + j * VL);
      acc[j] += v * v;
    }
  }
  double sum = (double)vsum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < n; i++) sum += (double)x[i] * x[i];
  return sum;
}

static double parts_sum(const double *parts) {
  double sum = 0;
  for (size_t part = 0; part < SQUARES_PARTS; part++) sum += parts[part];
  return sum;
}

struct SumSquares {
  const float *x;
  size_t n;
  double *parts;  // (SQUARES_PARTS)
};

static void sum_squares_task(void *argument, int thread, int threads) {
  const struct SumSquares *squares = argument;
  size_t first, last;
  pool_part(SQUARES_PARTS, 1, thread, threads, &first, &last);
  for (size_t part = first; part < last; part++) {
    size_t begin, end;
    pool_part(squares->n, 4 * VL, (int)part, SQUARES_PARTS, &begin, &end);
    squares->parts[part] = squares_of(squares->x + begin, end - begin);
  }
}

static double sum_squares(const struct Workers *workers, const float *x, size_t n) {
  struct SumSquares squares = {x, n, (double *)(void *)workers->shared};
  pool_run(workers->pool, "sum_squares", sum_squares_task, &squares);
  return parts_sum(squares.parts);
}

struct AdamWTask {
  float *params;
  struct Moments moments;
  const float *grads;
  const struct AdamW *adamw;
  size_t n;
  double *parts;  // (SQUARES_PARTS)
};

static void adamw_floats(float *restrict params, float *restrict m, float *restrict v, const float *restrict grads,
                         const struct AdamW *adamw, size_t n) {
  /* lr * m / c1 / (sqrt(v / c2) + eps), with everything that does not change hoisted. */
  const float step = (float)(adamw->lr / adamw->correction1), eps = (float)adamw->eps;
  const float root = (float)(1 / sqrt(adamw->correction2));
  const float keep = (float)(1 - adamw->lr * adamw->weight_decay);
  const float new1 = (float)(1 - adamw->beta1), scale = (float)adamw->scale;
  const float old2 = (float)adamw->beta2, new2 = (float)(1 - adamw->beta2);
  for (size_t i = 0; i < n; i++) {
    float g = scale * grads[i];
    float mean = m[i] + new1 * (g - m[i]);
    float square = old2 * v[i] + new2 * (g * g);
    m[i] = mean;
    v[i] = square;
    params[i] = keep * params[i] - step * mean / (sqrtf(square) * root + eps);
  }
}

/* Moments that are no floats become some, a block at a time, in the first cache. */
static void adamw_block(const struct AdamWTask *task, size_t begin, size_t end) {
  if (task->moments.type == MOMENTS_FP32) {
    const struct Moments moments = moments_at(task->moments, begin);
    adamw_floats(task->params + begin, (float *)(void *)moments.m, (float *)(void *)moments.v, task->grads + begin,
                 task->adamw, end - begin);
    return;
  }
  float m[MOMENTS_BLOCK], v[MOMENTS_BLOCK];
  for (size_t i = begin; i < end; i += MOMENTS_BLOCK) {
    const size_t n = size_min(MOMENTS_BLOCK, end - i);
    const struct Moments moments = moments_at(task->moments, i);
    moments_load(m, v, moments, n);
    adamw_floats(task->params + i, m, v, task->grads + i, task->adamw, n);
    moments_store(moments, m, v, task->adamw->key, task->adamw->first + i, n);
  }
}

static void adamw_task(void *argument, int thread, int threads) {
  enum { BLOCK = 8 * MOMENTS_BLOCK };  // floats: still in the first cache when their squares are summed
  const struct AdamWTask *task = argument;
  size_t first, last;
  pool_part(SQUARES_PARTS, 1, thread, threads, &first, &last);
  for (size_t part = first; part < last; part++) {
    size_t begin, end;
    pool_part(task->n, MOMENTS_BLOCK, (int)part, SQUARES_PARTS, &begin, &end);
    double sum = 0;
    for (size_t i = begin; i < end; i += BLOCK) {
      const size_t stop = size_min(i + BLOCK, end);
      adamw_block(task, i, stop);
      sum += squares_of(task->grads + i, stop - i);
    }
    task->parts[part] = sum;
  }
}

static double adamw_update(const struct Workers *workers, float *params, struct Moments moments,
                           const float *grads, const struct AdamW *adamw, size_t n) {
  struct AdamWTask task = {params, moments, grads, adamw, n, (double *)(void *)workers->shared};
  pool_run(workers->pool, "adamw_update", adamw_task, &task);
  return parts_sum(task.parts);
}
