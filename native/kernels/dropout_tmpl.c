/* Dropout of rows, and its random bits by the vector. */

typedef uint32_t vu __attribute__((vector_size(4 * VL)));

/* What the numbers i, which are places in the row, are multiplied by: dropout_factor of each. */
INLINE vf vdropout_factor(const struct Dropout *dropout, uint64_t row, vu i) {
  vu x = i + (uint32_t)row;
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) + (uint32_t)(row >> 32);
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return vselect((vi)(x < dropout->below), (vf){0}, vsplat(dropout->scale));
}

static void dropout_task(void *argument, int thread, int threads) {
  const struct DropoutRows *a = argument;
  const size_t C = a->C;
  size_t begin, end;
  vu lane = {0};
  for (uint32_t l = 0; l < VL; l++) lane[l] = l;
  pool_part(a->N, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) {
    const uint64_t row = dropout_row(&a->dropout, n);
    const float *inp = a->inp + n * C, *residual = a->residual != NULL ? a->residual + n * C : NULL;
    float *out = a->out + n * C;
    size_t c = 0;
    for (; c + VL <= C; c += VL) {
      const vf x = vload(inp + c) * vdropout_factor(&a->dropout, row, lane + (uint32_t)c);
      vstore(out + c, residual != NULL ? vload(residual + c) + x : x);
    }
    for (; c < C; c++) {
      const float x = inp[c] * dropout_factor(&a->dropout, row, c);
      out[c] = residual != NULL ? residual[c] + x : x;
    }
  }
}

static void dropout(const struct Workers *workers, struct DropoutRows a) {
  pool_run(workers->pool, "dropout", dropout_task, &a);
}
