/* Token files with masks: every window holds tokens below V, its targets are the tokens that follow or -1, and some of
 * them count, also where a mask changes while it is read. */
#include "fuzz.h"

#include "files/dataloader.h"

enum { MOST_SHARDS = 3 };

static void fuzz_prepare(void) {}

static void read_all(size_t T, size_t V, uint8_t options, struct Input changed) {
  struct DataLoader loader;
  struct Arena arena = {0};
  int *tokens = NULL, *targets = NULL;
  dataloader_open(&loader, "t_*.bin", 1, 1, V);
  loader.aligned = options & 2, loader.eot = 1;
  dataloader_cut(&loader, T);
  loader.T = T, loader.shuffle = options & 1, loader.seed = options;
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) arena_take(&arena);
    dataloader_layout(&loader, &arena);
    tokens = arena_alloc(&arena, T, sizeof *tokens);
    targets = arena_alloc(&arena, T, sizeof *targets);
  }
  for (uint64_t visit = 0; visit < 2 * dataloader_windows(&loader) && visit < 500; visit++) {
    size_t counted = 0;
    if (visit == 3 && (options & 4)) fuzz_put("t_0.mask", changed.at, changed.left);
    dataloader_window(&loader, visit, tokens, targets);
    for (size_t k = 0; k < T; k++) {
      if (tokens[k] < 0 || (size_t)tokens[k] >= V || targets[k] < -1 || targets[k] >= (int)V) abort();
      if (targets[k] >= 0 && k + 1 < T && tokens[k + 1] != targets[k]) abort();
      counted += targets[k] >= 0;
    }
    if (counted == 0 || counted != dataloader_counted(&loader, visit)) abort();
  }
  dataloader_close(&loader);
  arena_free(&arena);
}

/* T, two bytes of V, options, the number of shards; each shard and its mask after their lengths: 4 ints of the header,
 * what follows it. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  const size_t T = 1 + fuzz_byte(&input) % 32u, low = fuzz_byte(&input), V = 1 + (low | (size_t)fuzz_byte(&input) << 8);
  const uint8_t options = fuzz_byte(&input), shards = 1 + fuzz_byte(&input) % MOST_SHARDS;
  fuzz_without_checksums = options & 64;
  fuzz_empty(".", false);
  for (unsigned i = 0; i < shards; i++) {
    char name[32];
    snprintf(name, sizeof name, "t_%u.bin", i);
    fuzz_put_shard(name, fuzz_counted(&input), 4, options & 16);
    snprintf(name, sizeof name, "t_%u.mask", i);
    fuzz_put_file(name, fuzz_counted(&input), (struct FuzzFile){4, options & 16, MASK_COUNT_AT, 1});
  }
  FUZZ(read_all(T, V, options, input));
  return 0;
}
