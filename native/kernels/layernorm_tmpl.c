/* LayerNorm: rows are split over the threads; where rows are summed (dweight, dbias), columns are. */

static void layernorm_forward_task(void *argument, int thread, int threads) {
  const struct LayerNormForward *ln = argument;
  const size_t C = ln->C, whole = C / VL * VL;
  size_t begin, end;
  pool_part(ln->N, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) {
    const float *x = ln->inp + n * C;
    const struct Array out = array_at(ln->out, n * C);
    vf sums = {0};
    float tail = 0;
    for (size_t c = 0; c < whole; c += VL) sums += vload(x + c);
    for (size_t c = whole; c < C; c++) tail += x[c];
    float mean = (vsum(sums) + tail) / (float)C;
    vf squares = {0};
    tail = 0;
    for (size_t c = 0; c < whole; c += VL) squares += (vload(x + c) - mean) * (vload(x + c) - mean);
    for (size_t c = whole; c < C; c++) tail += (x[c] - mean) * (x[c] - mean);
    float rstd = 1 / sqrtf((vsum(squares) + tail) / (float)C + 1e-5f);
    for (size_t c = 0; c < whole; c += VL) {
      vstore_array(out, c, (vload(x + c) - mean) * rstd * vload(ln->weight + c) + vload(ln->bias + c));
    }
    for (size_t c = whole; c < C; c++) array_set(out, c, (x[c] - mean) * rstd * ln->weight[c] + ln->bias[c]);
    ln->mean[n] = mean;
    ln->rstd[n] = rstd;
  }
}

static void layernorm_forward(const struct Workers *workers, struct LayerNormForward ln) {
  pool_run(workers->pool, "layernorm_forward", layernorm_forward_task, &ln);
}

/* dinp of row n; the formula is derived in plain.c and docs/engine/layernorm.md */
static void layernorm_backward_row(const struct LayerNormBackward *ln, size_t n) {
  const size_t C = ln->C, whole = C / VL * VL;
  const float *x = ln->inp + n * C, *dy = ln->dout + n * C, *weight = ln->weight;
  const float mean = ln->mean[n], rstd = ln->rstd[n];
  float *dx = ln->dinp + n * C;
  vf sums = {0}, products = {0};
  float sum_tail = 0, product_tail = 0;
  for (size_t c = 0; c < whole; c += VL) {
    vf dxhat = vload(dy + c) * vload(weight + c);
    sums += dxhat;
    products += dxhat * ((vload(x + c) - mean) * rstd);
  }
  for (size_t c = whole; c < C; c++) {
    float dxhat = dy[c] * weight[c];
    sum_tail += dxhat;
    product_tail += dxhat * ((x[c] - mean) * rstd);
  }
  const float sum = (vsum(sums) + sum_tail) / (float)C;
  const float product = (vsum(products) + product_tail) / (float)C;
  for (size_t c = 0; c < whole; c += VL) {
    vf xhat = (vload(x + c) - mean) * rstd, dxhat = vload(dy + c) * vload(weight + c);
    vstore(dx + c, vload(dx + c) + rstd * (dxhat - sum - xhat * product));
  }
  for (size_t c = whole; c < C; c++) {
    dx[c] += rstd * (dy[c] * weight[c] - sum - (x[c] - mean) * rstd * product);
  }
}

enum { LAYERNORM_COLUMNS = 512 };  // whose sums are collected at a time

/* dweight and dbias of some columns. */
static void layernorm_backward_columns(const struct LayerNormBackward *ln, size_t begin, size_t columns) {
  float dweight[LAYERNORM_COLUMNS], dbias[LAYERNORM_COLUMNS];
  memcpy(dweight, ln->dweight + begin, columns * sizeof *dweight);
  memcpy(dbias, ln->dbias + begin, columns * sizeof *dbias);
  for (size_t n = 0; n < ln->N; n++) {
    const float *x = ln->inp + n * ln->C + begin, *dy = ln->dout + n * ln->C + begin;
    const float mean = ln->mean[n], rstd = ln->rstd[n];
    for (size_t c = 0; c < columns; c++) {
      dweight[c] += dy[c] * ((x[c] - mean) * rstd);
      dbias[c] += dy[c];
    }
  }
  memcpy(ln->dweight + begin, dweight, columns * sizeof *dweight);
  memcpy(ln->dbias + begin, dbias, columns * sizeof *dbias);
}

static void layernorm_backward_task(void *argument, int thread, int threads) {
  const struct LayerNormBackward *ln = argument;
  const size_t C = ln->C;
  size_t begin, end;
  pool_part(ln->N, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) layernorm_backward_row(ln, n);
  pool_part(C, SUMMED_COLUMNS, thread, threads, &begin, &end);
  for (; begin < end; begin += LAYERNORM_COLUMNS) {
    layernorm_backward_columns(ln, begin, size_min(LAYERNORM_COLUMNS, end - begin));
  }
}

static void layernorm_backward(const struct Workers *workers, struct LayerNormBackward ln) {
  pool_run(workers->pool, "layernorm_backward", layernorm_backward_task, &ln);
}
