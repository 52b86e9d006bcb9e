/* Windows that are cut where conversations or turns begin, and which count the loss of each token once.
 *
 * A window that begins at token p reads p … p + T - 1 and predicts p + 1 … p + T. The next one begins at q: the last
 * token of these where a conversation begins; if there is none, the last where a turn begins; if there is none,
 * p + T. Targets after q belong to the next window and do not count in this one. The first window begins at 0, the
 * last one counts up to the stream's end, and a window without a target that counts is left out.
 */
#ifndef LLMC_CUTS_H
#define LLMC_CUTS_H

#include <stddef.h>
#include <stdint.h>

struct Cut {
  uint64_t start;    // p
  uint32_t length;   // q - p: its targets are tokens start + 1 … start + length
  uint32_t counted;  // of them
};

struct Cuts {
  struct Cut *items;  // NULL: the windows are not cut
  uint64_t count;
};

/* Fills marks with the bits of format.h's mask of `count` tokens from `first` on. */
typedef void ReadMarks(void *context, uint64_t first, size_t count, unsigned char *marks);

/* Makes the table for a stream of at least 2 tokens. It is empty where no token counts. */
void cuts_make(struct Cuts *cuts, uint64_t tokens, size_t T, ReadMarks *read, void *context);

void cuts_free(struct Cuts *cuts);

#endif
