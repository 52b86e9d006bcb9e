/* Token files and lists of them: every window of any stream of shards holds tokens below V and nothing from beyond a file,
 * also where a file changes while it is read. */
#include "fuzz.h"

#include "files/dataloader.h"

enum { MOST_SHARDS = 20 };

static void fuzz_prepare(void) {}

static void read_all(const char *path, size_t B, size_t T, size_t V, uint8_t options, struct Input changed) {
  static const size_t steps[] = {0, 1, 2, 77, 1000000007, (size_t)1 << 40};
  struct DataLoader loader;
  struct Arena arena = {0};
  int *tokens = NULL, *targets = NULL;
  dataloader_open(&loader, path, B, T, V);
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) arena_take(&arena);
    dataloader_layout(&loader, &arena);
    tokens = arena_alloc(&arena, B * T, sizeof *tokens);
    targets = arena_alloc(&arena, B * T, sizeof *targets);
  }
  loader.shuffle = options & 1, loader.whole = options & 2, loader.seed = options;
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    dataloader_batch(&loader, steps[i], tokens, targets);
    for (size_t k = 0; k < B * T; k++) {
      if (tokens[k] < 0 || (size_t)tokens[k] >= V || targets[k] < 0 || (size_t)targets[k] >= V) abort();
      if (k % T > 0 && tokens[k] != targets[k - 1]) abort();
    }
  }
  if (options & 4) {
    fuzz_put("t_000000.bin", changed.at, changed.left);
    dataloader_batch(&loader, 3, tokens, targets);
  }
  dataloader_close(&loader);
  arena_free(&arena);
}

/* B, T, two bytes of V, options, the number of shards; each shard after its length: 3 ints of its header, its tokens. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  const size_t B = 1 + fuzz_byte(&input) % 8u, T = 1 + fuzz_byte(&input) % 32u;
  const size_t low = fuzz_byte(&input), V = 1 + (low | (size_t)fuzz_byte(&input) << 8);
  const uint8_t options = fuzz_byte(&input), shards = 1 + fuzz_byte(&input) % MOST_SHARDS;
  fuzz_empty(".", false);
  for (unsigned i = 0; i < shards; i++) {
    char name[32];
    snprintf(name, sizeof name, "t_%06u.bin", i);
    const struct Input shard = fuzz_counted(&input);
    if (options & 8) fuzz_put(name, shard.at, shard.left);
    else fuzz_put_shard(name, shard, 3, options & 16);
  }
  const char *path = options & 32 ? "t_*.bin" : options & 64 ? "t_00000[0-9].bin" : "t_000000.bin";
  FUZZ(read_all(path, B, T, V, options, input));
  return 0;
}
