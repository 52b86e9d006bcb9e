/* Token plus position embedding: forward is split by rows, backward by columns and by tokens, because two rows may hold
 * the same token and must add to its gradient in order. */

struct Encoder {
  float *out, *dwte, *dwpe;
  const float *wte, *wpe, *dout;
  const int *tokens;
  size_t B, T, C;
};

static void encoder_forward_task(void *argument, int thread, int threads) {
  const struct Encoder *encoder = argument;
  const size_t C = encoder->C;
  size_t begin, end;
  pool_part(encoder->B * encoder->T, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) {
    const float *token = encoder->wte + (size_t)encoder->tokens[n] * C;
    const float *position = encoder->wpe + n % encoder->T * C;
    for (size_t c = 0; c < C; c++) encoder->out[n * C + c] = token[c] + position[c];
  }
}

static void encoder_forward(const struct Workers *workers, float *out, const int *tokens,
                            const float *wte, const float *wpe, size_t B, size_t T, size_t C) {
  struct Encoder encoder = {.out = out, .tokens = tokens, .wte = wte, .wpe = wpe, .B = B, .T = T, .C = C};
  pool_run(workers->pool, "encoder_forward", encoder_forward_task, &encoder);
}

INLINE void encoder_add(float *restrict sum, const float *restrict row, size_t n) {
  for (size_t c = 0; c < n; c++) sum[c] += row[c];
}

static void encoder_backward_task(void *argument, int thread, int threads) {
  const struct Encoder *encoder = argument;
  const size_t C = encoder->C, T = encoder->T;
  const struct EmbeddingClaims claims = embedding_claims(C, (size_t)threads);
  struct Span mine = span_part(claims.lines * claims.classes, 1, (size_t)thread, (size_t)threads), columns;
  while (mine.begin < mine.end) {
    const size_t class = embedding_claimed(&claims, &mine, C, &columns), width = columns.end - columns.begin;
    for (size_t n = 0; n < encoder->B * T; n++) {
      const float *drow = encoder->dout + n * C + columns.begin;
      const size_t token = (size_t)encoder->tokens[n], position = n % T;
      if (token % claims.classes == class) encoder_add(encoder->dwte + token * C + columns.begin, drow, width);
      if (position % claims.classes == class) encoder_add(encoder->dwpe + position * C + columns.begin, drow, width);
    }
  }
}

static void encoder_backward(const struct Workers *workers, float *dwte, float *dwpe, const float *dout,
                             const int *tokens, size_t B, size_t T, size_t C) {
  struct Encoder encoder = {.dwte = dwte, .dwpe = dwpe, .dout = dout, .tokens = tokens, .B = B, .T = T, .C = C};
  pool_run(workers->pool, "encoder_backward", encoder_backward_task, &encoder);
}
