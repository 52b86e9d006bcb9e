/* The update, and the sum of squares for the norm of the gradient. */

enum { SQUARES_PARTS = 1024 };  // fixed, so that the order of the sum is; a thread takes whole parts

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
    vf acc[4] = {0};
    size_t i = begin;
    for (; i + 4 * VL <= end; i += 4 * VL) {
#pragma GCC unroll 4
      for (size_t j = 0; j < 4; j++) {
        vf x = vload(squares->x + i + j * VL);
        acc[j] += x * x;
      }
    }
    double sum = (double)vsum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (; i < end; i++) sum += (double)squares->x[i] * squares->x[i];
    squares->parts[part] = sum;
  }
}

static double sum_squares(const struct Workers *workers, const float *x, size_t n) {
  struct SumSquares squares = {x, n, (double *)(void *)workers->shared};
  pool_run(workers->pool, "sum_squares", sum_squares_task, &squares);
  double sum = 0;
  for (size_t part = 0; part < SQUARES_PARTS; part++) sum += squares.parts[part];
  return sum;
}

struct AdamWTask {
  float *params, *m, *v;
  const float *grads;
  const struct AdamW *adamw;
  size_t n;
};

static void adamw_task(void *argument, int thread, int threads) {
  const struct AdamWTask *task = argument;
  float *restrict params = task->params, *restrict m = task->m, *restrict v = task->v;
  const float *restrict grads = task->grads;
  const struct AdamW *adamw = task->adamw;
  /* lr * m / c1 / (sqrt(v / c2) + eps), with everything that does not change hoisted. */
  const float step = (float)(adamw->lr / adamw->correction1), eps = (float)adamw->eps;
  const float root = (float)(1 / sqrt(adamw->correction2));
  const float keep = (float)(1 - adamw->lr * adamw->weight_decay);
  const float new1 = (float)(1 - adamw->beta1);
  const float old2 = (float)adamw->beta2, new2 = (float)(1 - adamw->beta2);
  size_t begin, end;
  pool_part(task->n, 16, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    float g = grads[i];
    float mean = m[i] + new1 * (g - m[i]);
    float square = old2 * v[i] + new2 * (g * g);
    m[i] = mean;
    v[i] = square;
    params[i] = keep * params[i] - step * mean / (sqrtf(square) * root + eps);
  }
}

static void adamw_update(const struct Workers *workers, float *params, float *m, float *v,
                         const float *grads, const struct AdamW *adamw, size_t n) {
  struct AdamWTask task = {params, m, v, grads, adamw, n};
  pool_run(workers->pool, "adamw_update", adamw_task, &task);
}
