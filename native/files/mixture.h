/* Several texts, mixed by weight: which of them each row of a run comes from, and which of its windows.
 *
 * The weights are whole numbers w(i) with the sum W. Rows are counted from 0 over all steps. Of the first n rows, part i
 * gives n · w(i) / W, up or down by less than one: its row number j (from 0) comes no earlier than row floor(j · W / w(i)),
 * and before row ceil((j + 1) · W / w(i)). Each row is given by the part whose next row may come and has the earliest such
 * end; of several, by the first part. This order always meets every end (earliest deadline first; Steiner and Yeomans
 * 1993 show that the counts of such a sequence can stay within one). It repeats after W rows.
 *
 * A part's row j is visit j of its own windows (dataloader.h): its own epochs, in an order by its own seed. So every row
 * follows from its number, the weights and the seed. There is no state to save, B and the number of batches in an update
 * play no part, and a single text is read as it is without this file.
 */
#ifndef LLMC_MIXTURE_H
#define LLMC_MIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/args.h"
#include "base/arena.h"
#include "files/dataloader.h"

enum { MOST_PARTS = ARG_MOST_ITEMS };

/* A part's place in the sequence. */
struct Turn {
  uint64_t given;          // rows, of this round of W
  uint64_t from, until;    // the next one's row of the round: no earlier than from, before until
};

/* The row that comes next. */
struct Cursor {
  uint64_t round, row;     // number round · W + row
  struct Turn turns[MOST_PARTS];
};

struct Mixture {
  struct DataLoader *parts;
  size_t count;
  uint64_t weights[MOST_PARTS], weight;  // each part's; their sum, W
  size_t B, T;
  bool shuffle, whole, aligned;  // of every part
  uint32_t eot;            // likewise
  uint64_t seed;           // of the first part
  unsigned char *buffer, *marks;  // that all parts read into
  struct Cursor cursor;    // at the first row of the newest batch
};

/* Opens each part as dataloader_open does. `weights` are whole numbers with commas between them, one for each path;
 * NULL: all are equal. Dies with EXIT_USAGE where they are not, or add up to 2^32 or more; with EXIT_BAD_DATA where
 * tokens of several parts differ in size. */
void mixture_open(struct Mixture *mixture, const struct ArgList *paths, const char *weights, size_t V);

/* Dies with EXIT_BAD_DATA where a part of several is too small for a row of T tokens. */
void mixture_check_rows(const struct Mixture *mixture);

/* Cuts the windows of the parts that have masks, or that are aligned, once; T is set. Dies as dataloader_cut. */
void mixture_cut(struct Mixture *mixture);

/* After B and T are set. */
void mixture_layout(struct Mixture *mixture, struct Arena *arena);

/* Rows after which every part has been passed once, at least; T and `whole` are set. */
uint64_t mixture_epoch(struct Mixture *mixture);

/* The part of a row, and which of its visits that is. Rows may be asked for in any order; it is fast where each is the
 * cursor's, or a later one. */
size_t mixture_row(struct Mixture *mixture, uint64_t row, uint64_t *visit);

/* The targets that count in `rows` rows from number `first` on. */
uint64_t mixture_counted(struct Mixture *mixture, uint64_t first, uint64_t rows);

/* Fills tokens (B, T) and targets (B, T) for a step, counted from 0. Dies as dataloader_batch. */
void mixture_batch(struct Mixture *mixture, size_t step, int *tokens, int *targets);

/* Fills tokens and targets with a window of one part, and sets targets that do not count to -1: dataloader_run and
 * dataloader_uncount. */
void mixture_run(struct Mixture *mixture, size_t part, struct Window window, int *tokens, int *targets);

/* Whether the windows of a part are cut. */
bool mixture_is_cut(const struct Mixture *mixture);

/* A part's share of some tokens: that of its weight, rounded up. */
uint64_t mixture_share(const struct Mixture *mixture, size_t part, uint64_t tokens);

void mixture_close(struct Mixture *mixture);

#endif
