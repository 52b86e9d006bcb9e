/* Softmax, loss and its gradient in one visit to each row of logits, which it overwrites. */

struct CrossEntropy {
  float *losses, *logits;   // (N), (N, Vp)
  const int *targets;       // (N); -1: it does not count
  float scale;
  size_t N, V, Vp;
};

static void crossentropy_row(const struct CrossEntropy *ce, size_t n) {
  const size_t V = ce->V, whole = V / VL * VL, rest = V - whole;
  float *row = ce->logits + n * ce->Vp;
  if (ce->targets[n] < 0) {
    ce->losses[n] = 0;
    memset(row, 0, ce->Vp * sizeof(float));
    return;
  }
  const size_t target = (size_t)ce->targets[n];
  const float target_logit = row[target];
  vf top = rest > 0 ? vload_part(row + whole, rest, -INFINITY) : vsplat(-INFINITY);
  for (size_t v = 0; v < whole; v += VL) top = vmax(vload(row + v), top);
  const float max = vmax_lane(top);

  vf sums = {0};
  for (size_t v = 0; v < whole; v += VL) {
    vf e = vexp(vload(row + v) - max);
    vstore(row + v, e);
    sums += e;
  }
  if (rest > 0) {
    vf e = vexp(vload_part(row + whole, rest, -INFINITY) - max);
    vstore_part(row + whole, e, rest);
    sums += e;
  }
  const float sum = vsum(sums), factor = ce->scale / sum;
  ce->losses[n] = logf(sum) - (target_logit - max);
  for (size_t v = 0; v < whole; v += VL) vstore(row + v, factor * vload(row + v));
  for (size_t v = whole; v < V; v++) row[v] *= factor;
  row[target] -= ce->scale;
  memset(row + V, 0, (ce->Vp - V) * sizeof(float));
}

static void crossentropy_task(void *argument, int thread, int threads) {
  const struct CrossEntropy *ce = argument;
  size_t begin, end;
  pool_part(ce->N, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) crossentropy_row(ce, n);
}

static void crossentropy(const struct Workers *workers, float *losses, float *logits,
                         const int *targets, float scale, size_t N, size_t V, size_t Vp) {
  struct CrossEntropy ce = {losses, logits, targets, scale, N, V, Vp};
  pool_run(workers->pool, "crossentropy", crossentropy_task, &ce);
}
