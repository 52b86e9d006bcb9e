/* Which tokens a step sees: in order, and shuffled. */
#define _POSIX_C_SOURCE 200809L
#include "dataloader.h"

#include <unistd.h>

#include "check.h"
#include "format.h"

static char path[] = "/tmp/llmc_test_tokens_XXXXXX";

static void write_tokens(size_t count, size_t width, const uint32_t *tokens) {
  FILE *file = fopen(path, "wb");
  const bool narrow = width == 2;
  int32_t header[HEADER_INTS] = {narrow ? TOKENS16_MAGIC : TOKENS32_MAGIC,
                                 narrow ? TOKENS16_VERSION : TOKENS32_VERSION, (int32_t)count};
  fwrite(header, sizeof header, 1, file);
  for (size_t i = 0; i < count; i++) {
    const uint16_t small = (uint16_t)tokens[i];
    if (narrow) fwrite(&small, 2, 1, file);
    else fwrite(&tokens[i], 4, 1, file);
  }
  fclose(file);
}

static void check_permute(uint64_t n, uint64_t seed) {
  unsigned char *seen = calloc(n, 1);
  size_t moved = 0;
  for (uint64_t i = 0; i < n; i++) {
    const uint64_t to = permute(i, n, seed);
    check(to < n, "permute(%llu, %llu): got %llu", (unsigned long long)i, (unsigned long long)n, (unsigned long long)to);
    if (to < n) seen[to]++;
    moved += to != i;
  }
  size_t once = 0;
  for (uint64_t i = 0; i < n; i++) once += seen[i] == 1;
  check(once == n, "permute of %llu, seed %llu: expected every number once, %zu are",
        (unsigned long long)n, (unsigned long long)seed, once);
  check(n < 64 || moved > n / 2, "permute of %llu, seed %llu: only %zu moved", (unsigned long long)n,
        (unsigned long long)seed, moved);
  free(seen);
}

enum { MOST = 4000 };

/* Token i of the file is i times a stride, so that a token tells where it came from. */
static void check_order(size_t count, size_t B, size_t T, size_t width) {
  static uint32_t file[MOST];
  const uint32_t stride = width == 4 ? 70000 : 1;
  for (size_t i = 0; i < count; i++) file[i] = (uint32_t)i * stride;
  write_tokens(count, width, file);
  struct DataLoader loader;
  dataloader_open(&loader, path, B, T, count * stride);
  struct Arena arena = {0};
  dataloader_layout(&loader, &arena);
  arena_take(&arena);
  dataloader_layout(&loader, &arena);
  const size_t batches = (count - 1) / (B * T), windows = (count - 1) / T;
  check(dataloader_batches(&loader) == batches, "%zu tokens in %zux%zu: expected %zu batches, got %zu", count, B, T,
        batches, dataloader_batches(&loader));
  int tokens[MOST], targets[MOST];
  for (size_t step = 0; step < 2 * batches + 1; step++) {
    dataloader_batch(&loader, step, tokens, targets);
    for (size_t i = 0; i < B * T; i++) {
      const size_t at = step % batches * B * T + i;
      check(tokens[i] == (int)file[at] && targets[i] == (int)file[at + 1],
            "%zu tokens in %zux%zu, step %zu, place %zu: expected %u and %u, got %d and %d", count, B, T, step, i,
            file[at], file[at + 1], tokens[i], targets[i]);
    }
  }
  /* Shuffled: over three epochs each window comes three times, once an epoch, and whole. */
  loader.shuffle = true;
  loader.seed = count + B;
  size_t visits[MOST] = {0}, orders_differ = 0, first[MOST], visit = 0;
  while (visit < 3 * windows) {
    dataloader_batch(&loader, visit / B, tokens, targets);
    for (size_t b = 0; b < B && visit < 3 * windows; b++, visit++) {
      const size_t window = (size_t)tokens[b * T] / stride / T;
      for (size_t i = 0; i < T; i++) {
        check(tokens[b * T + i] == (int)file[window * T + i] && targets[b * T + i] == (int)file[window * T + i + 1],
              "%zu tokens in %zux%zu, visit %zu: window %zu is not whole", count, B, T, visit, window);
      }
      check(visits[window] == visit / windows, "%zu tokens in %zux%zu: window %zu comes %zu times before epoch %zu",
            count, B, T, window, visits[window], visit / windows);
      visits[window]++;
      if (visit < windows) first[visit] = window;
      else orders_differ += first[visit % windows] != window;
    }
  }
  check(windows < 20 || orders_differ > 0, "%zu windows come in the same order every epoch", windows);
  /* A batch is a function of its step: out of turn it is the same. */
  int again[MOST], its_targets[MOST];
  dataloader_batch(&loader, 1, tokens, targets);
  dataloader_batch(&loader, 5, again, its_targets);
  dataloader_batch(&loader, 1, again, its_targets);
  check(memcmp(tokens, again, B * T * sizeof(int)) == 0, "%zu tokens in %zux%zu: step 1 changed", count, B, T);
  close(loader.file);
  arena_free(&arena);
}

int main(void) {
  const int file = mkstemp(path);
  if (file < 0) {
    perror(path);
    return 1;
  }
  close(file);
  for (uint64_t n = 1; n < 70; n++) check_permute(n, n * 31);
  for (unsigned bits = 7; bits <= 17; bits++) {
    for (int more = -1; more <= 1; more++) check_permute(((uint64_t)1 << bits) + (uint64_t)(int64_t)more, bits);
  }
  check(permute(0xFFFFFFFE, 0xFFFFFFFF, 1) < 0xFFFFFFFF, "permute of the largest file leads outside");
  size_t same = 0;
  for (uint64_t i = 0; i < 1000; i++) same += permute(i, 1000, 1) == permute(i, 1000, 2);
  check(same < 100, "permute: two seeds agree in %zu of 1000 places", same);

  check_order(1 + 1, 1, 1, 2);        // one batch exactly
  check_order(2 * 3 * 4 + 1, 3, 4, 2);
  check_order(2 * 3 * 4 + 4, 3, 4, 2);  // a rest that is never reached in order
  check_order(1000, 4, 7, 2);
  check_order(1000, 1, 37, 4);
  check_order(997, 5, 3, 4);
  unlink(path);
  return check_done("test_dataloader");
}
