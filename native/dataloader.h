/* Token files, and which of their tokens a step sees.
 *
 * In order: step i reads tokens i·B·T … (i+1)·B·T, the last of them only as a target, and begins again
 * at the front where a whole batch no longer fits.
 * Shuffled: the file is cut into windows of T tokens; every epoch visits each window once, in an order
 * that is a function of the seed and the epoch alone. The batches follow from the step number: there is
 * no state to save.
 */
#ifndef LLMC_DATALOADER_H
#define LLMC_DATALOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"

struct DataLoader {
  const char *path;
  int file;
  size_t width;            // bytes of a token
  size_t count;            // tokens in the file
  size_t V;                // tokens must be below it
  size_t B, T;
  bool shuffle;
  uint64_t seed;
  unsigned char *buffer;   // (B * T + 1) tokens as they are in the file
};

/* Opens a token file and checks it. Dies with EXIT_MISSING or EXIT_BAD_DATA; also when it holds less
 * than one batch. */
void dataloader_open(struct DataLoader *loader, const char *path, size_t B, size_t T, size_t V);

void dataloader_layout(struct DataLoader *loader, struct Arena *arena);

/* Whole batches in the file, at least 1. */
size_t dataloader_batches(const struct DataLoader *loader);

/* Fills tokens (B, T) and targets (B, T) for a step, counted from 0. Dies with EXIT_BAD_DATA on a token
 * that is not below V. */
void dataloader_batch(struct DataLoader *loader, size_t step, int *tokens, int *targets);

/* Fills tokens and targets (count) from the count + 1 tokens at position `first`: what a caller needs that
 * chooses its own windows. They must be in the file, and count at most B * T. Dies as dataloader_batch. */
void dataloader_run(struct DataLoader *loader, uint64_t first, size_t count, int *tokens, int *targets);

/* A permutation of 0 … n - 1, chosen by the seed: where `index` goes. */
uint64_t permute(uint64_t index, uint64_t n, uint64_t seed);

#endif
