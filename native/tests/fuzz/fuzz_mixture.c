/* Mixtures: any weights over any list of token files. The shares of the parts hold at every row, and rows may be asked for
 * in any order. */
#include "fuzz.h"

#include "files/mixture.h"

enum { PARTS = 4, V = 20 };

static void fuzz_prepare(void) {}

/* Of the first n rows part i gives n · w(i) / W, up or down by less than one. */
static void check_shares(struct Mixture *m) {
  uint64_t given[PARTS] = {0}, visit;
  for (uint64_t row = 0; row < 200; row++) {
    const size_t part = mixture_row(m, row, &visit);
    if (part >= m->count || visit != given[part]++) abort();
    for (size_t i = 0; i < m->count; i++) {
      const double share = (double)(row + 1) * (double)m->weights[i] / (double)m->weight;
      if ((double)given[i] <= share - 1 || (double)given[i] >= share + 1) abort();
    }
  }
}

static void read_all(const struct ArgList *paths, const char *weights, size_t B, size_t T, uint8_t options) {
  struct Mixture m;
  struct Arena arena = {0};
  int *tokens = NULL, *targets = NULL;
  mixture_open(&m, paths, weights, V);
  m.B = B, m.T = T, m.shuffle = options & 1, m.whole = options & 2, m.seed = options;
  mixture_check_rows(&m);
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) arena_take(&arena);
    mixture_layout(&m, &arena);
    tokens = arena_alloc(&arena, B * T, sizeof *tokens);
    targets = arena_alloc(&arena, B * T, sizeof *targets);
  }
  if (mixture_epoch(&m) == 0) abort();
  if (m.weight < 1 << 12) check_shares(&m);
  static const size_t steps[] = {3, 0, 1, 40};
  for (size_t i = 0; m.weight < 1 << 20 && i < sizeof steps / sizeof *steps; i++) {
    mixture_batch(&m, steps[i], tokens, targets);
    for (size_t k = 0; k < B * T; k++) {
      if (tokens[k] < 0 || tokens[k] >= V || targets[k] < 0 || targets[k] >= V) abort();
    }
  }
  mixture_close(&m);
  arena_free(&arena);
}

/* B, T, options, the number of parts, the weights after their length; each part after its length. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  static const char *names[] = {"a.bin", "b.bin", "c.bin", "d.bin"};
  struct Input input = {bytes, count};
  const size_t B = 1 + fuzz_byte(&input) % 4u, T = 1 + fuzz_byte(&input) % 16u;
  const uint8_t options = fuzz_byte(&input);
  struct ArgList paths = {.count = 1 + fuzz_byte(&input) % PARTS};
  const struct Input text = fuzz_counted(&input);
  char *weights = calloc(text.left + 1, 1);
  memcpy(weights, text.at, text.left);
  for (size_t i = 0; i < paths.count; i++) {
    paths.items[i] = names[i];
    fuzz_put_shard(names[i], fuzz_counted(&input), 3, options & 16);
  }
  FUZZ(read_all(&paths, options & 4 ? NULL : weights, B, T, options));
  free(weights);
  return 0;
}
