/* What a run needs besides the weights to go on as if it had never stopped (state.bin). */
#ifndef LLMC_STATE_H
#define LLMC_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "file.h"
#include "outliers.h"
#include "stopping.h"

struct State {
  uint64_t step;            // updates made
  uint64_t metrics_bytes;   // of metrics.jsonl, all that was told until then
  uint64_t draws;           // random numbers that the samples used up
  double best_val_loss;     // of the checkpoints so far; infinity: none
  double seconds;           // trained, over all resumes
  uint64_t skipped;         // updates that were not made
  struct Patience patience;
  struct Outliers outliers;
  /* What the order of the data follows from: a run goes on with these only. */
  uint64_t seed, seq_len, update_tokens;
  bool shuffle;
  bool told;  // the validation and the sample of this step came before the checkpoint
};

/* Writes the header, the outliers' windows, then m and v, `count` numbers each. */
void state_write(struct FileWriter *writer, const struct State *state, const float *m, const float *v, size_t count);

/* Reads the header and checks it against the size of the file, for a model of `count` parameters; returns
 * the file descriptor. Dies with EXIT_MISSING or EXIT_BAD_DATA. */
int state_open(const char *path, struct State *state, size_t count);

/* Reads the outliers' windows, m and v, verifies the checksum and closes the file. */
void state_read(int file, const char *path, struct Outliers *outliers, float *m, float *v, size_t count);

#endif
