/* Which tokens a step sees: in order, and shuffled. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE  // mkdtemp
#define _FILE_OFFSET_BITS 64
#include "files/dataloader.h"

#include <unistd.h>

#include "tests/check.h"
#include "base/disk.h"
#include "files/format.h"
#include "base/util.h"

static char path[] = "/tmp/llmc_test_tokens_XXXXXX";

static void write_tokens(const char *name, size_t count, size_t width, const uint32_t *tokens) {
  FILE *file = fopen(name, "wb");
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
  write_tokens(path, count, width, file);
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
      const size_t at = (step * B + i / T) % windows * T + i % T;
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
  dataloader_close(&loader);
  arena_free(&arena);
}

/* Every target of the stream comes once an epoch or, where the last window overlaps, twice at most. */
static void check_whole(size_t count, size_t B, size_t T) {
  static uint32_t file[MOST];
  for (size_t i = 0; i < count; i++) file[i] = (uint32_t)i;
  write_tokens(path, count, 2, file);
  struct DataLoader loader;
  struct Arena arena = {0};
  dataloader_open(&loader, path, 1, 1, count);
  loader.B = B, loader.T = T, loader.whole = true, loader.shuffle = count % 2 == 0;
  dataloader_layout(&loader, &arena);
  arena_take(&arena);
  dataloader_layout(&loader, &arena);
  const size_t targets = count - 1, windows = (targets + T - 1) / T;
  check(dataloader_windows(&loader) == windows, "%zu tokens by %zu: expected %zu windows, got %zu", count, T, windows,
        (size_t)dataloader_windows(&loader));
  static int x[MOST], y[MOST];
  size_t seen[MOST] = {0};
  for (size_t visit = 0; visit < windows; visit++) {
    if (visit % B == 0) dataloader_batch(&loader, visit / B, x, y);
    const int *inputs = x + visit % B * T, *outputs = y + visit % B * T;
    for (size_t t = 0; t < T; t++) {
      seen[outputs[t]]++;
      check(outputs[t] == (inputs[t] + 1) % (int)count, "%zu tokens by %zu: %d comes after %d", count, T, outputs[t],
            inputs[t]);
    }
  }
  for (size_t i = 1; i < count; i++) {
    check(seen[i] > 0 && (seen[i] <= 2 || T > targets), "%zu tokens by %zu: token %zu is a target %zu times", count, T,
          i, seen[i]);
  }
  dataloader_close(&loader);
  arena_free(&arena);
}

static void open_laid_out(struct DataLoader *loader, struct Arena *arena, const char *name, size_t B, size_t T,
                          size_t V) {
  *arena = (struct Arena){0};
  dataloader_open(loader, name, B, T, V);
  dataloader_layout(loader, arena);
  arena_take(arena);
  dataloader_layout(loader, arena);
}

/* Whatever B is, the same windows come in the same order, over the ends of epochs too. */
static void check_same_for_any_batch(size_t count, size_t T) {
  static uint32_t file[MOST];
  enum { VISITS = 180 };
  for (size_t i = 0; i < count; i++) file[i] = (uint32_t)(mix64(i) % 60000);
  write_tokens(path, count, 2, file);
  const size_t sizes[] = {1, 2, 3, 4, 5, 9};  // all divide the number of visits
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    static int x[2][VISITS * 8], y[2][VISITS * 8];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      struct DataLoader loader;
      struct Arena arena;
      const size_t B = sizes[i], at = i > 0;
      open_laid_out(&loader, &arena, path, B, T, 60000);
      loader.shuffle = shuffle, loader.seed = 7;
      check(dataloader_windows(&loader) == (count - 1) / T && VISITS % dataloader_windows(&loader) != 0,
            "%zu tokens in windows of %zu: no epoch ends within a batch", count, T);
      for (size_t step = 0; step < VISITS / B; step++) {
        dataloader_batch(&loader, step, x[at] + step * B * T, y[at] + step * B * T);
      }
      check(memcmp(x[0], x[at], VISITS * T * sizeof(int)) == 0 && memcmp(y[0], y[at], VISITS * T * sizeof(int)) == 0,
            "%zu tokens in windows of %zu, shuffle %d: batches of %zu are other windows than of 1", count, T, shuffle, B);
      dataloader_close(&loader);
      arena_free(&arena);
    }
  }
}

/* The number that the last of 64 more files gets, as each gets the lowest that is free: one more for every open file. */
static int files_reach(void) {
  enum { MORE = 64 };
  int files[MORE];
  for (int i = 0; i < MORE; i++) files[i] = disk_open(path);
  for (int i = 0; i < MORE; i++) disk_close(files[i]);
  return files[MORE - 1];
}

/* Batches from shards are those from the file that holds all their tokens. */
static void check_shards(const size_t *sizes, size_t shards, size_t B, size_t T, size_t width) {
  static uint32_t all[MOST];
  static char folder[] = "/tmp/llmc_test_shards_XXXXXX";
  char name[256], pattern[256];
  size_t count = 0;
  memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
  if (mkdtemp(folder) == NULL) {
    check(false, "%s: cannot be made", folder);
    return;
  }
  for (size_t i = 0; i < MOST; i++) all[i] = (uint32_t)(mix64(i) % 60000);
  for (size_t i = 0; i < shards; i++) {
    snprintf(name, sizeof name, "%s/train_%06zu.bin", folder, i + 1);
    write_tokens(name, sizes[i], width, all + count);
    count += sizes[i];
  }
  write_tokens(path, count, width, all);
  snprintf(pattern, sizeof pattern, "%s/train_*.bin", folder);
  struct DataLoader joined, sharded;
  struct Arena arenas[2];
  const int before = files_reach();
  open_laid_out(&joined, &arenas[0], path, B, T, 60000);
  open_laid_out(&sharded, &arenas[1], pattern, B, T, 60000);
  check(sharded.count == count && sharded.shard_count == shards, "%zu shards of %zu tokens: got %zu of %llu", shards,
        count, sharded.shard_count, (unsigned long long)sharded.count);
  check(dataloader_batches(&joined) == dataloader_batches(&sharded), "%zu shards: other batches", shards);
  static int x[2][MOST], y[2][MOST];
  const size_t BT = B * T * sizeof(int), steps = 2 * dataloader_batches(&joined) + 3;
  for (int shuffle = 0; shuffle < 2; shuffle++) {
    joined.shuffle = sharded.shuffle = shuffle;
    joined.seed = sharded.seed = count;
    for (size_t step = 0; step < steps; step++) {
      dataloader_batch(&joined, step, x[0], y[0]);
      dataloader_batch(&sharded, step, x[1], y[1]);
      check(memcmp(x[0], x[1], BT) == 0 && memcmp(y[0], y[1], BT) == 0,
            "%zu shards, %zu tokens in %zux%zu, shuffle %d: step %zu differs", shards, count, B, T, shuffle, step);
    }
  }
  const int opened = files_reach() - before;
  check(opened <= 1 + OPEN_SHARDS, "%zu shards: %d files are open", shards, opened);
  dataloader_close(&joined);
  dataloader_close(&sharded);
  check(files_reach() == before, "%d files are left open", files_reach() - before);
  for (size_t i = 0; i < 2; i++) arena_free(&arenas[i]);
  for (size_t i = 0; i < shards; i++) {
    snprintf(name, sizeof name, "%s/train_%06zu.bin", folder, i + 1);
    unlink(name);
  }
  rmdir(folder);
}

/* A path that exists is not a pattern, whatever characters it has. */
static void check_literal(void) {
  static uint32_t some[100];
#ifdef _WIN32
  const char *name = "/tmp/llmc_test_[literal].bin";  // no name has a star there
#else
  const char *name = "/tmp/llmc_test_[literal]*.bin";
#endif
  write_tokens(name, 100, 2, some);
  struct DataLoader loader;
  dataloader_open(&loader, name, 1, 8, 10);
  check(loader.shard_count == 1 && loader.count == 100, "%s is taken for a pattern", name);
  dataloader_close(&loader);
  unlink(name);
}

/* More tokens than an int32, or a uint32, can count: sparse files of 2^32 - 1 tokens, twice. */
static void check_large(void) {
  char names[2][64];
  const uint32_t last[2] = {7, 9};
  const uint64_t each = UINT32_MAX;
  for (int i = 0; i < 2; i++) {
    snprintf(names[i], sizeof names[i], "%s_large_%d", path, i);
    write_tokens(names[i], 0, 2, last);
    FILE *file = fopen(names[i], "r+b");
    const uint32_t count = UINT32_MAX;
    const uint16_t token = (uint16_t)last[i];
    fseek(file, 4 * TOKENS_COUNT_AT, SEEK_SET);
    fwrite(&count, 4, 1, file);
    bool whole = fseeko(file, (off_t)(HEADER_BYTES + 2 * (each - 1)), SEEK_SET) == 0;
    whole = whole && fwrite(&token, 2, 1, file) == 1;
    if (fclose(file) != 0 || !whole) {
      printf("skipped: the file system takes no sparse file of 8 GB\n");
      for (int j = 0; j <= i; j++) unlink(names[j]);
      return;
    }
  }
  char pattern[80];
  snprintf(pattern, sizeof pattern, "%s_large_*", path);
  struct DataLoader loader;
  struct Arena arena;
  open_laid_out(&loader, &arena, pattern, 1, 1, 10);
  check(loader.count == 2 * each, "expected %llu tokens, got %llu", (unsigned long long)(2 * each),
        (unsigned long long)loader.count);
  int x, y;
  dataloader_batch(&loader, (size_t)each - 1, &x, &y);
  check(x == 7 && y == 0, "where the files meet: expected 7 and 0, got %d and %d", x, y);
  dataloader_batch(&loader, (size_t)(2 * each) - 2, &x, &y);
  check(x == 0 && y == 9, "at the end: expected 0 and 9, got %d and %d", x, y);
  uint64_t seen = 0;
  loader.shuffle = true;
  for (size_t step = 0; step < 64; step++) {
    dataloader_batch(&loader, step, &x, &y);
    seen += permute(step, 2 * each - 1, mix64(loader.seed)) > each;
  }
  check(seen > 8 && seen < 56, "of 64 shuffled windows %llu lie in the second file", (unsigned long long)seen);
  dataloader_close(&loader);
  arena_free(&arena);
  for (int i = 0; i < 2; i++) unlink(names[i]);
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

  check_same_for_any_batch(300, 8);
  check_same_for_any_batch(93, 7);

  check_shards((size_t[]){100}, 1, 2, 7, 2);
  check_shards((size_t[]){100, 1, 57, 300}, 4, 2, 7, 2);
  check_shards((size_t[]){0, 3, 0, 0, 90, 2, 2, 2, 0}, 9, 3, 5, 4);  // empty ones, and less than a window
  check_shards((size_t[]){64, 64, 64, 1}, 4, 4, 16, 2);
  size_t many[50];
  for (size_t i = 0; i < 50; i++) many[i] = 5 + mix64(i) % 60;
  check_shards(many, 50, 3, 11, 4);
  check_literal();
  check_large();
  const size_t counts[] = {2, 3, 10, 41, 64, 65, 574, 1000}, lengths[] = {1, 2, 7, 64, 400};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
      check_whole(counts[i], 1, lengths[j]);
      check_whole(counts[i], 3, lengths[j]);
    }
  }
  unlink(path);
  return check_done("test_dataloader");
}
