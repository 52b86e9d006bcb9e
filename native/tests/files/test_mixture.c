/* Texts mixed by weight: the counts after any number of rows, and the windows that they stand for. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE  // mkstemp
#include "files/mixture.h"

#include <unistd.h>

#include "tests/check.h"
#include "files/format.h"
#include "base/util.h"

enum { MOST_FILES = 4, MOST_TOKENS = 2000, ROWS = 240, T = 8, VOCABULARY = MOST_FILES * MOST_TOKENS };

static char paths[MOST_FILES][40];

/* Token i of file number f is f · MOST_TOKENS + i: it tells where it came from. */
static void write_tokens(size_t f, size_t count) {
  FILE *file = fopen(paths[f], "wb");
  int32_t header[HEADER_INTS] = {TOKENS16_MAGIC, TOKENS16_VERSION, (int32_t)count};
  fwrite(header, sizeof header, 1, file);
  for (size_t i = 0; i < count; i++) {
    const uint16_t token = (uint16_t)(f * MOST_TOKENS + i);
    fwrite(&token, 2, 1, file);
  }
  fclose(file);
}

static struct Mixture opened(size_t count, const char *weights) {
  struct ArgList list = {.count = count};
  for (size_t i = 0; i < count; i++) list.items[i] = paths[i];
  struct Mixture mixture;
  mixture_open(&mixture, &list, weights, VOCABULARY);
  mixture.B = 1, mixture.T = T, mixture.whole = true;
  return mixture;
}

/* After every number of rows, each part has given its share within one row, and its visits in order. */
static void check_shares(size_t count, const char *weights, uint64_t rows) {
  struct Mixture mixture = opened(count, weights);
  uint64_t given[MOST_FILES] = {0};
  for (uint64_t row = 0; row < rows; row++) {
    uint64_t visit;
    const size_t part = mixture_row(&mixture, row, &visit);
    check(part < count && visit == given[part], "%s: row %llu is visit %llu of part %zu", weights,
          (unsigned long long)row, (unsigned long long)visit, part);
    given[part]++;
    for (size_t i = 0; i < count; i++) {
      const double share = (double)mixture.weights[i] / (double)mixture.weight;
      const double off = (double)given[i] - (double)(row + 1) * share;
      check(fabs(off) < 1, "%s: after %llu rows part %zu is %g rows off", weights, (unsigned long long)row + 1, i, off);
    }
  }
  /* Any row can be asked for, in any order. */
  struct Mixture other = opened(count, weights);
  for (uint64_t i = 0; i < 100; i++) {
    const uint64_t row = mix64(i) % (2 * rows);
    uint64_t visits[2];
    struct Mixture anew = opened(count, weights);
    const size_t a = mixture_row(&other, row, &visits[0]), b = mixture_row(&anew, row, &visits[1]);
    check(a == b && visits[0] == visits[1], "%s: row %llu depends on the rows before it", weights,
          (unsigned long long)row);
    mixture_close(&anew);
  }
  mixture_close(&other);
  mixture_close(&mixture);
}

static void read_rows(struct Mixture *mixture, size_t B, int *x, int *y) {
  struct Arena arena = {0};
  mixture->B = B;
  mixture_layout(mixture, &arena);
  arena_take(&arena);
  mixture_layout(mixture, &arena);
  for (size_t step = 0; step < ROWS / B; step++) {
    mixture_batch(mixture, step, x + step * B * T, y + step * B * T);
  }
  arena_free(&arena);
}

/* Every row is a window of its part, in the part's own order; B plays no part. */
static void check_rows(size_t count, const char *weights, bool shuffle) {
  static int x[2][ROWS * T], y[2][ROWS * T], alone[T], its_targets[T];
  const size_t sizes[] = {1, 2, 3, 8, 60};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct Mixture mixture = opened(count, weights);
    mixture.shuffle = shuffle, mixture.seed = 5;
    read_rows(&mixture, sizes[i], x[i > 0], y[i > 0]);
    check(memcmp(x[0], x[i > 0], sizeof x[0]) == 0 && memcmp(y[0], y[i > 0], sizeof y[0]) == 0,
          "%s, shuffle %d: batches of %zu are other rows than of 1", weights, shuffle, sizes[i]);
    mixture_close(&mixture);
  }
  struct Mixture mixture = opened(count, weights);
  for (size_t part = 0; part < count; part++) {
    struct Arena arena = {0};
    struct DataLoader loader;
    dataloader_open(&loader, paths[part], 1, T, VOCABULARY);
    loader.shuffle = shuffle, loader.whole = true, loader.seed = 5 + part * 0x9E3779B97F4A7C15;
    dataloader_layout(&loader, &arena);
    arena_take(&arena);
    dataloader_layout(&loader, &arena);
    for (uint64_t row = 0; row < ROWS; row++) {
      uint64_t visit;
      if (mixture_row(&mixture, row, &visit) != part) continue;
      dataloader_batch(&loader, (size_t)visit, alone, its_targets);
      check(memcmp(alone, x[0] + row * T, sizeof alone) == 0 &&
                memcmp(its_targets, y[0] + row * T, sizeof its_targets) == 0,
            "%s, shuffle %d: row %llu is not visit %llu of part %zu", weights, shuffle, (unsigned long long)row,
            (unsigned long long)visit, part);
    }
    dataloader_close(&loader);
    arena_free(&arena);
  }
  mixture_close(&mixture);
}

static uint64_t windows_of(size_t part) {
  struct DataLoader loader;
  dataloader_open(&loader, paths[part], 1, T, VOCABULARY);
  loader.whole = true;
  const uint64_t windows = dataloader_windows(&loader);
  dataloader_close(&loader);
  return windows;
}

/* After the rows of an epoch every part has given each of its windows, and one of them hardly more. */
static void check_epoch(size_t count, const char *weights) {
  struct Mixture mixture = opened(count, weights);
  const uint64_t rows = mixture_epoch(&mixture);
  uint64_t given[MOST_FILES] = {0}, visit, least = UINT64_MAX;
  for (uint64_t row = 0; row < rows; row++) given[mixture_row(&mixture, row, &visit)]++;
  for (size_t i = 0; i < count; i++) {
    check(given[i] >= windows_of(i), "%s: %llu rows do not pass part %zu", weights, (unsigned long long)rows, i);
    if (given[i] - windows_of(i) < least) least = given[i] - windows_of(i);
  }
  check(least <= 1, "%s: %llu rows pass every part %llu windows too far", weights, (unsigned long long)rows,
        (unsigned long long)least);
  mixture_close(&mixture);
}

int main(void) {
  const size_t counts[MOST_FILES] = {300, 1999, 60, 9};
  for (size_t f = 0; f < MOST_FILES; f++) {
    snprintf(paths[f], sizeof paths[f], "/tmp/llmc_test_mixture_XXXXXX");
    const int file = mkstemp(paths[f]);
    if (file < 0) {
      perror(paths[f]);
      return 1;
    }
    close(file);
    write_tokens(f, counts[f]);
  }
  const char *const two[] = {"1,1", "3,7", "10,3", "1,100", "4294967294,1", "2,2"};
  for (size_t i = 0; i < sizeof two / sizeof *two; i++) check_shares(2, two[i], 3000);
  const char *const more[] = {"1,1,1,1", "10,3,20,1", "7,5,3,2", "1,1,1,97", "123456789,987654321,5,400000000"};
  for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
    check_shares(4, more[i], 3000);
    if (i < 4) check_epoch(4, more[i]);  // the last takes 10^9 rows
    for (int shuffle = 0; shuffle < 2; shuffle++) check_rows(4, more[i], shuffle);
  }
  check_rows(1, "1", true);
  check_rows(2, "3,7", true);
  check_epoch(1, "1");
  struct Mixture mixture = opened(2, NULL);
  check(mixture.weights[0] == 1 && mixture.weights[1] == 1 && mixture.weight == 2, "without weights they are not equal");
  check(mixture_share(&mixture, 0, 7) == 4 && mixture_share(&mixture, 1, 8) == 4, "a half of 7 tokens is not 4");
  check(mixture_share(&mixture, 0, 0) == 0, "a half of none is some");
  mixture_close(&mixture);
  mixture = opened(1, NULL);
  check(mixture_epoch(&mixture) == windows_of(0), "the epoch of one text is not its windows");
  mixture_close(&mixture);
  for (size_t f = 0; f < MOST_FILES; f++) unlink(paths[f]);
  return check_done("test_mixture");
}
