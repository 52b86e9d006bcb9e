/* Token files, and which of their tokens a step sees.
 *
 * Several files (shards) are read as one stream, in the order of their names; a window may begin in one
 * and end in another.
 * The stream is cut into windows of T tokens, the token after a window being its last target. What is left at the
 * end is less than a window: with `whole` the last window begins earlier, so that it ends with the stream, and
 * overlaps the one before; without, as older versions had it, the rest is not read. A stream that is shorter than
 * one window is read again from its beginning until the window is full.
 * The windows of a stream with a mask are cut where conversations begin (cuts.h); a target that does not count is -1.
 * With `aligned` the windows of other streams are cut in the same way where documents begin, at each `eot`.
 * Every epoch visits each window once, in order or shuffled; the order is a function of the seed and the epoch alone. Row b
 * of step i is visit i·B + b. So the batches follow from the step number, there is no state to save, and B only says how
 * many visits make a batch: an epoch may end within one.
 */
#ifndef LLMC_DATALOADER_H
#define LLMC_DATALOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "files/windows.h"

enum { OPEN_SHARDS = 16 };  // shards that are open at most

struct Shard {
  char *path;
  uint64_t first;          // tokens in the shards before it
  uint64_t count;          // tokens in it
};

struct OpenShard {
  int file, mask;          // -1: none
  size_t shard;
  uint64_t used;           // when, counted in reads
};

struct DataLoader {
  const char *path;        // as it was given: a file or a pattern
  struct Shard *shards;
  size_t shard_count;
  size_t width;            // bytes of a token
  uint64_t count;          // tokens in all
  bool masked;             // every shard has a mask
  struct Cuts cuts;        // of a stream with a mask or of an aligned one, once dataloader_cut has made them
  size_t V;                // tokens must be below it
  size_t B, T;
  bool shuffle, whole, aligned;
  uint32_t eot;            // with which documents begin
  uint64_t seed;
  unsigned char *buffer;   // (B * T + 1) tokens as they are in the files
  unsigned char *marks;    // (T) bytes of a mask
  struct OpenShard open[OPEN_SHARDS];
  size_t places;           // of these that it may use; at least 1
  uint64_t reads;
};

/* Opens one token file, or all that a glob pattern finds (what exists is not a pattern), and checks them and their masks.
 * The table of shards is taken here, once. Dies with EXIT_MISSING or EXIT_BAD_DATA; also when they hold
 * less than one batch. */
void dataloader_open(struct DataLoader *loader, const char *path, size_t B, size_t T, size_t V);

/* Cuts the windows of a stream with a mask, or of an aligned one, into T tokens each, once; others stay as they are. Dies
 * with EXIT_BAD_DATA where no token counts. */
void dataloader_cut(struct DataLoader *loader, size_t T);

void dataloader_layout(struct DataLoader *loader, struct Arena *arena);

/* Whole batches in the stream, at least 1. */
size_t dataloader_batches(const struct DataLoader *loader);

/* Windows of T tokens in the stream, which make an epoch; at least 1. */
uint64_t dataloader_windows(const struct DataLoader *loader);

/* Fills tokens (B, T) and targets (B, T) for a step, counted from 0. Dies with EXIT_BAD_DATA on a token
 * that is not below V, and on a file that has changed. */
void dataloader_batch(struct DataLoader *loader, size_t step, int *tokens, int *targets);

/* Fills tokens (T) and targets (T) with the window of a visit, counted from 0. Dies as dataloader_batch. */
void dataloader_window(struct DataLoader *loader, uint64_t visit, int *tokens, int *targets);

/* The targets that count in the window of a visit. */
size_t dataloader_counted(const struct DataLoader *loader, uint64_t visit);

/* Fills tokens and targets (count) from the count + 1 tokens at position `first`: what a caller needs that
 * chooses its own windows. They must be in the file, and count at most B * T. Dies as dataloader_batch. */
void dataloader_run(struct DataLoader *loader, uint64_t first, size_t count, int *tokens, int *targets);

/* Sets the targets (window.length) that do not count to -1, where the windows are cut. */
void dataloader_uncount(struct DataLoader *loader, struct Window window, int *targets);

/* Closes the files and gives the table back. */
void dataloader_close(struct DataLoader *loader);

/* A permutation of 0 … n - 1, chosen by the seed: where `index` goes. */
uint64_t permute(uint64_t index, uint64_t n, uint64_t seed);

#endif
