#include "dataloader.h"

#include <string.h>

#include "file.h"
#include "format.h"
#include "util.h"

void dataloader_open(struct DataLoader *loader, const char *path, size_t B, size_t T, size_t V) {
  uint64_t size;
  *loader = (struct DataLoader){.path = path, .B = B, .T = T, .V = V};
  loader->file = file_open(path, "llmc prepare", &size);
  int32_t header[HEADER_INTS];
  if (size < HEADER_BYTES) {
    die(EXIT_BAD_DATA, "%s is not a token file: it has %llu bytes, less than a header; "
        "make it with 'llmc tokenize'", path, (unsigned long long)size);
  }
  file_read(loader->file, path, header, HEADER_BYTES, 0);
  const int32_t magic = header[TOKENS_MAGIC_AT], version = header[TOKENS_VERSION_AT];
  if (magic == TOKENS16_MAGIC && version == TOKENS16_VERSION) {
    loader->width = 2;
  } else if (magic == TOKENS32_MAGIC && version == TOKENS32_VERSION) {
    loader->width = 4;
  } else {
    die(EXIT_BAD_DATA, "%s is not a token file: it begins with %d, %d, one with %d, %d or %d, %d; "
        "make it with 'llmc tokenize'", path, magic, version, TOKENS16_MAGIC, TOKENS16_VERSION,
        TOKENS32_MAGIC, TOKENS32_VERSION);
  }
  loader->count = (uint32_t)header[TOKENS_COUNT_AT];
  const uint64_t expected = HEADER_BYTES + (uint64_t)loader->count * loader->width;
  if (size != expected) {
    die(EXIT_BAD_DATA, "%s is %s: %zu tokens take %llu bytes, it has %llu; make it again with "
        "'llmc tokenize'", path, size < expected ? "cut short" : "damaged", loader->count,
        (unsigned long long)expected, (unsigned long long)size);
  }
  if (loader->count < size_product(B, T) + 1) {
    die(EXIT_BAD_DATA, "%s holds %zu tokens, less than one batch of %zu x %zu and the token after it; "
        "use a smaller --batch-size or --seq-len, or more text", path, loader->count, B, T);
  }
}

void dataloader_layout(struct DataLoader *loader, struct Arena *arena) {
  loader->buffer = arena_alloc(arena, loader->B * loader->T + 1, loader->width);
}

size_t dataloader_batches(const struct DataLoader *loader) {
  return (loader->count - 1) / (loader->B * loader->T);
}

/* A Feistel network on the next even power of two, walked again while it leads outside 0 … n - 1
 * (Black and Rogaway 2002): a shuffle without a table. */
uint64_t permute(uint64_t index, uint64_t n, uint64_t seed) {
  enum { ROUNDS = 6 };
  unsigned half_bits = 1;
  while (half_bits < 32 && (uint64_t)1 << (2 * half_bits) < n) half_bits++;
  const uint64_t mask = ((uint64_t)1 << half_bits) - 1;
  do {
    uint64_t left = index >> half_bits, right = index & mask;
    for (uint64_t round = 0; round < ROUNDS; round++) {
      uint64_t next = left ^ (mix64(mix64(seed + round) ^ right) & mask);
      left = right;
      right = next;
    }
    index = left << half_bits | right;
  } while (index >= n);
  return index;
}

void dataloader_run(struct DataLoader *loader, uint64_t first, size_t count, int *tokens, int *targets) {
  const size_t width = loader->width;
  file_read(loader->file, loader->path, loader->buffer, (count + 1) * width, HEADER_BYTES + first * width);
  for (size_t i = 0; i <= count; i++) {
    uint32_t token;
    if (width == 2) {
      uint16_t narrow;
      memcpy(&narrow, loader->buffer + 2 * i, 2);
      token = narrow;
    } else {
      memcpy(&token, loader->buffer + 4 * i, 4);
    }
    if (token >= loader->V) {
      die(EXIT_BAD_DATA, "%s holds token %u at position %llu, but the model knows %zu tokens; "
          "use the tokenizer that the model was made for", loader->path, token,
          (unsigned long long)(first + i), loader->V);
    }
    if (i < count) tokens[i] = (int)token;
    if (i > 0) targets[i - 1] = (int)token;
  }
}

void dataloader_batch(struct DataLoader *loader, size_t step, int *tokens, int *targets) {
  const size_t B = loader->B, T = loader->T;
  if (!loader->shuffle) {
    dataloader_run(loader, step % dataloader_batches(loader) * B * T, B * T, tokens, targets);
    return;
  }
  const uint64_t windows = (loader->count - 1) / T;
  for (size_t b = 0; b < B; b++) {
    uint64_t visit = (uint64_t)step * B + b, epoch = visit / windows;
    uint64_t window = permute(visit % windows, windows, mix64(loader->seed) + epoch * 0x10001);
    dataloader_run(loader, window * T, T, tokens + b * T, targets + b * T);
  }
}
