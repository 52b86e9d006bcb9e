#define _POSIX_C_SOURCE 200809L  // strdup
#include "files/dataloader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "files/file.h"
#include "files/format.h"
#include "files/mask.h"
#include "base/disk.h"
#include "base/util.h"

struct Found {
  size_t width;
  uint64_t count;
  bool masked;
};

/* Opens one token file and holds its size against its header. */
static int shard_open(const char *path, struct Found *found) {
  uint64_t size;
  const int file = file_open(path, "llmc prepare", &size);
  int32_t header[HEADER_INTS];
  if (size < HEADER_BYTES) {
    die(EXIT_BAD_DATA, "%s is not a token file: it has %llu bytes, less than a header; "
        "make it with 'llmc tokenize PATH'", path, (unsigned long long)size);
  }
  file_read(file, path, header, HEADER_BYTES, 0);
  const int32_t magic = header[TOKENS_MAGIC_AT], version = header[TOKENS_VERSION_AT];
  if (magic == TOKENS16_MAGIC && version == TOKENS16_VERSION) {
    found->width = 2;
  } else if (magic == TOKENS32_MAGIC && version == TOKENS32_VERSION) {
    found->width = 4;
  } else {
    die(EXIT_BAD_DATA, "%s is not a token file: it begins with %d, %d, one with %d, %d or %d, %d; "
        "make it with 'llmc tokenize PATH', from tokens without a header with its --dtype uint16 or int32",
        path, magic, version, TOKENS16_MAGIC, TOKENS16_VERSION, TOKENS32_MAGIC, TOKENS32_VERSION);
  }
  if (header[TOKENS_MASK_AT] != 0 && header[TOKENS_MASK_AT] != 1) {
    die(EXIT_BAD_DATA, "%s is damaged: int %d of its header is %d, not 0 or 1; make it again with 'llmc tokenize PATH'", path,
        TOKENS_MASK_AT, header[TOKENS_MASK_AT]);
  }
  found->masked = header[TOKENS_MASK_AT] == 1;
  found->count = (uint32_t)header[TOKENS_COUNT_AT];
  const uint64_t expected = HEADER_BYTES + found->count * found->width;
  if (size != expected) {
    die(EXIT_BAD_DATA, "%s is %s: %llu tokens take %llu bytes, it has %llu; make it again with "
        "'llmc tokenize PATH'", path, size < expected ? "cut short" : "damaged", (unsigned long long)found->count,
        (unsigned long long)expected, (unsigned long long)size);
  }
  return file;
}

static void add_shard(struct DataLoader *loader, const char *path) {
  struct Found found;
  disk_close(shard_open(path, &found));
  if (loader->shard_count > 0 && found.width != loader->width) {
    die(EXIT_BAD_DATA, "%s holds tokens of %zu bytes, %s of %zu: they are of different datasets; name one",
        path, found.width, loader->shards[0].path, loader->width);
  }
  if (loader->shard_count > 0 && found.masked != loader->masked) {
    die(EXIT_BAD_DATA, "%s has a mask, and %s has none: they are of different datasets; name one",
        found.masked ? path : loader->shards[0].path, found.masked ? loader->shards[0].path : path);
  }
  if (found.masked) {
    const int mask = mask_open(path, found.count);
    mask_check(mask, path, found.count);
    disk_close(mask);
  }
  loader->width = found.width, loader->masked = found.masked;
  struct Shard *shard = &loader->shards[loader->shard_count++];
  *shard = (struct Shard){.path = strdup(path), .first = loader->count, .count = found.count};
  if (shard->path == NULL) die(EXIT_BAD_DATA, "no memory for the names of the token files");
  loader->count += found.count;
}

void dataloader_open(struct DataLoader *loader, const char *path, size_t B, size_t T, size_t V) {
  *loader = (struct DataLoader){.path = path, .B = B, .T = T, .V = V, .places = OPEN_SHARDS};
  for (size_t i = 0; i < OPEN_SHARDS; i++) loader->open[i].file = loader->open[i].mask = -1;
  struct DiskPaths matches = {0};
  const bool literal = disk_there(path) || strpbrk(path, "*?[") == NULL;
  if (!literal) {
    if (!disk_match(path, &matches)) {
      const char *folders = "on Windows patterns can be in the names of files alone, not of folders";
      die(EXIT_BAD_DATA, "cannot look for the files %s: %s", path, errno == EINVAL ? folders : strerror(errno));
    }
    if (matches.count == 0) die(EXIT_MISSING, "there is no file %s; run 'llmc prepare NAME' first", path);
  }
  const size_t most = literal ? 1 : matches.count;
  loader->shards = calloc(most, sizeof *loader->shards);
  if (loader->shards == NULL) die(EXIT_BAD_DATA, "no memory for a table of %zu token files", most);
  for (size_t i = 0; i < most; i++) add_shard(loader, literal ? path : matches.items[i]);
  disk_paths_free(&matches);
  if (loader->count < (uint64_t)size_product(B, T) + 1) {
    die(EXIT_BAD_DATA, "%s holds %llu tokens, less than one batch of %zu x %zu and the token after it; "
        "use a smaller --batch-size or --seq-len, or more text", path, (unsigned long long)loader->count, B, T);
  }
}

void dataloader_layout(struct DataLoader *loader, struct Arena *arena) {
  loader->buffer = arena_alloc(arena, loader->B * loader->T + 1, loader->width);
  if (loader->masked) loader->marks = arena_alloc(arena, loader->T, 1);
}

size_t dataloader_batches(const struct DataLoader *loader) {
  return (loader->count - 1) / (loader->B * loader->T);
}

uint64_t dataloader_windows(const struct DataLoader *loader) {
  if (loader->cuts.items != NULL) return loader->cuts.count;
  const uint64_t targets = loader->count - 1, windows = targets / loader->T;
  return windows == 0 || (loader->whole && targets % loader->T != 0) ? windows + 1 : windows;
}

/* Where a window begins. */
static uint64_t window_start(const struct DataLoader *loader, uint64_t window) {
  const uint64_t targets = loader->count - 1, last = targets > loader->T ? targets - loader->T : 0;
  const uint64_t start = window * loader->T;
  return start < last ? start : last;
}

void dataloader_close(struct DataLoader *loader) {
  for (size_t i = 0; i < OPEN_SHARDS; i++) {
    if (loader->open[i].file >= 0) disk_close(loader->open[i].file);
    if (loader->open[i].mask >= 0) disk_close(loader->open[i].mask);
  }
  cuts_free(&loader->cuts);
  for (size_t i = 0; i < loader->shard_count; i++) free(loader->shards[i].path);
  free(loader->shards);
  *loader = (struct DataLoader){0};
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

/* The shard that holds a position below the count: the last one that begins at or before it. Empty ones
 * begin where the next does, and are passed over. */
static size_t shard_at(const struct DataLoader *loader, uint64_t position) {
  size_t low = 0, high = loader->shard_count;
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    if (loader->shards[middle].first <= position) low = middle;
    else high = middle;
  }
  return low;
}

/* The open files of a shard; where all places are taken, those used longest ago are closed for them. */
static const struct OpenShard *shard_files(struct DataLoader *loader, size_t index) {
  struct OpenShard *place = &loader->open[0];
  loader->reads++;
  for (size_t i = 0; i < loader->places; i++) {
    struct OpenShard *open = &loader->open[i];
    if (open->file >= 0 && open->shard == index) {
      open->used = loader->reads;
      return open;
    }
    if (open->used < place->used) place = open;
  }
  if (place->file >= 0) disk_close(place->file);
  if (place->mask >= 0) disk_close(place->mask);
  const struct Shard *shard = &loader->shards[index];
  struct Found found;
  *place = (struct OpenShard){.file = shard_open(shard->path, &found), .mask = -1, .shard = index, .used = loader->reads};
  if (found.width != loader->width || found.count != shard->count || found.masked != loader->masked) {
    die(EXIT_BAD_DATA, "%s was changed while it was trained on; make it again with 'llmc tokenize PATH'", shard->path);
  }
  if (found.masked) place->mask = mask_open(shard->path, found.count);
  return place;
}

/* Copies `count` tokens from a position on, from as many shards as they lie in. After the last token comes the first. */
static void read_tokens(struct DataLoader *loader, uint64_t position, size_t count, unsigned char *to) {
  for (size_t index = shard_at(loader, position); count > 0; index++) {
    if (index == loader->shard_count) index = 0, position = 0;
    const struct Shard *shard = &loader->shards[index];
    if (shard->count == 0) continue;
    const uint64_t within = position - shard->first, left = shard->count - within;
    const size_t taken = left < count ? (size_t)left : count;
    file_read(shard_files(loader, index)->file, shard->path, to, taken * loader->width,
              HEADER_BYTES + within * loader->width);
    to += taken * loader->width, position += taken, count -= taken;
  }
}

/* Token number i of those that were read. */
static uint32_t token_at(const struct DataLoader *loader, const unsigned char *read, size_t i) {
  uint16_t narrow;
  uint32_t token;
  if (loader->width == 4) memcpy(&token, read + 4 * i, 4);
  else memcpy(&narrow, read + 2 * i, 2), token = narrow;
  return token;
}

/* Fills marks as a mask would have them that counts everywhere, and whose conversations are documents. */
static void mark_documents(void *context, uint64_t position, size_t count, unsigned char *marks) {
  struct DataLoader *loader = context;
  enum { PIECE = 1 << 10 };
  unsigned char piece[4 * PIECE];
  for (size_t at = 0; at < count; at += PIECE) {
    const size_t some = size_min(count - at, PIECE);
    read_tokens(loader, position + at, some, piece);
    for (size_t i = 0; i < some; i++) {
      const bool begins = token_at(loader, piece, i) == loader->eot;
      marks[at + i] = (unsigned char)(MASK_COUNTS | (begins ? MASK_CONVERSATION : 0));
    }
  }
}

/* Fills marks with the masks' bytes of `count` tokens from a position on. */
static void read_marks(void *context, uint64_t position, size_t count, unsigned char *marks) {
  struct DataLoader *loader = context;
  for (size_t index = shard_at(loader, position); count > 0; index++) {
    const struct Shard *shard = &loader->shards[index];
    const uint64_t within = position - shard->first, left = shard->count - within;
    const size_t taken = left < count ? (size_t)left : count;
    if (taken == 0) continue;
    file_read(shard_files(loader, index)->mask, shard->path, marks, taken, HEADER_BYTES + within);
    marks += taken, position += taken, count -= taken;
  }
}

void dataloader_cut(struct DataLoader *loader, size_t T) {
  if (!loader->masked && !loader->aligned) return;
  loader->T = T;
  cuts_make(&loader->cuts, loader->count, T, loader->masked ? read_marks : mark_documents, loader);
  if (loader->cuts.count == 0) {
    die(EXIT_BAD_DATA, "%s has a mask, and the loss counts at none of its tokens; name another text", loader->path);
  }
}

void dataloader_uncount(struct DataLoader *loader, struct Window window, int *targets) {
  if (!loader->masked || loader->cuts.items == NULL) return;
  size_t counted = 0;
  read_marks(loader, window.start + 1, window.length, loader->marks);
  for (size_t i = 0; i < window.length; i++) {
    if (loader->marks[i] & MASK_COUNTS) counted++;
    else targets[i] = -1;
  }
  if (counted == window.counted) return;
  die(EXIT_BAD_DATA, "the mask of %s was changed while it was read; make it again with 'llmc tokenize PATH'", loader->path);
}

void dataloader_run(struct DataLoader *loader, uint64_t first, size_t count, int *tokens, int *targets) {
  read_tokens(loader, first, count + 1, loader->buffer);
  for (size_t i = 0; i <= count; i++) {
    const uint32_t token = token_at(loader, loader->buffer, i);
    if (token >= loader->V) {
      const uint64_t place = (first + i) % loader->count;
      const struct Shard *shard = &loader->shards[shard_at(loader, place)];
      die(EXIT_BAD_DATA, "%s holds token %u at position %llu, but the model knows %zu tokens; "
          "use the tokenizer that the model was made for", shard->path, token,
          (unsigned long long)(place - shard->first), loader->V);
    }
    if (i < count) tokens[i] = (int)token;
    if (i > 0) targets[i - 1] = (int)token;
  }
}

/* Which window a visit sees. */
static uint64_t window_of(const struct DataLoader *loader, uint64_t visit) {
  const uint64_t windows = dataloader_windows(loader), epoch = visit / windows, window = visit % windows;
  return loader->shuffle ? permute(window, windows, mix64(loader->seed) + epoch * 0x10001) : window;
}

size_t dataloader_counted(const struct DataLoader *loader, uint64_t visit) {
  return loader->cuts.items != NULL ? loader->cuts.items[window_of(loader, visit)].counted : loader->T;
}

void dataloader_window(struct DataLoader *loader, uint64_t visit, int *tokens, int *targets) {
  const uint64_t window = window_of(loader, visit);
  if (loader->cuts.items == NULL) {
    dataloader_run(loader, window_start(loader, window), loader->T, tokens, targets);
    return;
  }
  const struct Cut *cut = &loader->cuts.items[window];
  dataloader_run(loader, cut->start, loader->T, tokens, targets);
  for (size_t i = cut->length; i < loader->T; i++) targets[i] = -1;
  dataloader_uncount(loader, (struct Window){cut->start, cut->length, cut->counted}, targets);
}

void dataloader_batch(struct DataLoader *loader, size_t step, int *tokens, int *targets) {
  const size_t B = loader->B, T = loader->T;
  for (size_t b = 0; b < B; b++) dataloader_window(loader, (uint64_t)step * B + b, tokens + b * T, targets + b * T);
}
