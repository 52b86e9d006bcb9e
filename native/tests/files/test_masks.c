/* Windows of a text with a mask: each token that counts is predicted once, in windows by conversations. */
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE  // mkdtemp
#include "files/dataloader.h"

#include <unistd.h>

#include "tests/check.h"
#include "files/format.h"
#include "base/util.h"

enum { MOST = 4000, MOST_SHARDS = 3 };

static char folder[] = "/tmp/llmc_test_masks_XXXXXX";

static void shard_name(char name[64], size_t shard, const char *ending) {
  snprintf(name, 64, "%s/train_%zu.%s", folder, shard, ending);
}

static void write_file(const char *name, const int32_t *header, const void *payload, size_t bytes) {
  FILE *file = fopen(name, "wb");
  fwrite(header, HEADER_BYTES, 1, file);
  fwrite(payload, 1, bytes, file);
  fclose(file);
}

/* Token i of the stream is i, cut into shards, each with its mask. */
static void write_masked(size_t count, size_t shards, const unsigned char *marks) {
  static uint16_t tokens[MOST];
  char name[64];
  for (size_t shard = 0; shard < MOST_SHARDS; shard++) {
    shard_name(name, shard, "bin"), unlink(name);
    shard_name(name, shard, "mask"), unlink(name);
  }
  for (size_t shard = 0; shard < shards; shard++) {
    const size_t first = count * shard / shards, some = count * (shard + 1) / shards - first;
    for (size_t i = 0; i < some; i++) tokens[i] = (uint16_t)(first + i);
    const int32_t header[HEADER_INTS] = {TOKENS16_MAGIC, TOKENS16_VERSION, (int32_t)some, 1};
    shard_name(name, shard, "bin");
    write_file(name, header, tokens, 2 * some);
    const int32_t of_mask[HEADER_INTS] = {MASK_MAGIC, MASK_VERSION, (int32_t)some,
                                          (int32_t)crc32_update(0, marks + first, some)};
    shard_name(name, shard, "mask");
    write_file(name, of_mask, marks + first, some);
  }
}

/* Each token that counts is a target once an epoch, in the one window that it lies in; all other targets are -1. */
static void check_masked(size_t count, size_t T, size_t shards, uint64_t seed) {
  static unsigned char marks[MOST];
  for (size_t i = 0; i < count; i++) {
    const uint64_t random = mix64(seed * MOST + i), every = 2 + seed % 50;
    marks[i] = (unsigned char)((random % 3 == 0 ? MASK_COUNTS : 0) | (random / 3 % every == 0 ? MASK_CONVERSATION : 0) |
                               (random / 300 % 5 == 0 ? MASK_TURN : 0));
  }
  marks[count - 1] |= MASK_COUNTS;
  write_masked(count, shards, marks);
  char pattern[64];
  snprintf(pattern, sizeof pattern, "%s/train_*.bin", folder);
  struct DataLoader loader;
  struct Arena arena = {0};
  dataloader_open(&loader, pattern, 1, 1, count);
  dataloader_cut(&loader, T);
  loader.shuffle = seed % 2;
  loader.places = 1 + seed % 3;
  dataloader_layout(&loader, &arena);
  arena_take(&arena);
  dataloader_layout(&loader, &arena);
  static int tokens[MOST], targets[MOST];
  static unsigned seen[MOST];
  memset(seen, 0, sizeof seen);
  for (uint64_t visit = 0; visit < dataloader_windows(&loader); visit++) {
    size_t counted = 0;
    dataloader_window(&loader, visit, tokens, targets);
    const size_t p = (size_t)tokens[0];
    check(p == 0 || (marks[p] & (MASK_CONVERSATION | MASK_TURN)) != 0 || p >= T, "a window of %zu begins at %zu", T, p);
    for (size_t t = 0; t < T; t++) {
      check(tokens[t] == (int)((p + t) % count), "the window at %zu holds %d at place %zu", p, tokens[t], t);
      if (targets[t] < 0) continue;
      counted++, seen[targets[t]]++;
      check(targets[t] == (int)(p + t + 1), "the window at %zu has target %d at place %zu", p, targets[t], t);
    }
    check(counted > 0 && counted == dataloader_counted(&loader, visit), "the window at %zu counts %zu targets, and says %zu",
          p, counted, dataloader_counted(&loader, visit));
  }
  for (size_t i = 1; i < count; i++) {
    check(seen[i] == (marks[i] & MASK_COUNTS), "%zu tokens by %zu in %zu shards: token %zu counts %u times", count, T, shards,
          i, seen[i]);
  }
  dataloader_close(&loader);
  arena_free(&arena);
}

int main(void) {
  if (mkdtemp(folder) == NULL) {
    perror(folder);
    return 1;
  }
  const size_t lengths[] = {1, 2, 7, 16, 100, 3999};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    for (uint64_t seed = 0; seed < 6; seed++) {
      check_masked(2 + (size_t)(mix64(seed) % 900), lengths[i], 1 + seed % MOST_SHARDS, seed);
    }
  }
  write_masked(0, 0, NULL);
  rmdir(folder);
  return check_done("test_masks");
}
