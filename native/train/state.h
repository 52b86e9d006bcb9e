/* What a run needs besides the weights to go on as if it had never stopped (state.bin). */
#ifndef LLMC_STATE_H
#define LLMC_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files/file.h"
#include "model/gpt2.h"
#include "train/outliers.h"
#include "train/stopping.h"
#include "train/team.h"

struct State {
  uint64_t step;            // updates made
  uint64_t metrics_bytes;   // of metrics.jsonl, all that was told until then
  uint64_t draws;           // random numbers that the samples used up
  double best_val_loss;     // of the checkpoints so far; infinity: none
  double seconds;           // trained, over all resumes
  uint64_t planned;         // the steps that --max-time was found to allow; 0: not found yet
  uint64_t skipped;         // updates that were not made
  struct Patience patience;
  struct Outliers outliers;
  /* What the order of the data follows from: a run goes on with these only. */
  uint64_t seed, seq_len, update_tokens;
  size_t shares;             // in which an update's gradient was added up: rounding follows from it
  bool shuffle, whole, aligned;
  enum Optimizer optimizer;
  enum MomentsType moments;  // how its moments are stored
  bool told;  // the validation and the sample of this step came before the checkpoint
};

/* Bytes of the file. */
size_t state_bytes(const struct Config *config, enum MomentsType moments, enum Optimizer optimizer);

/* Writes the header, the outliers' windows, then the model's m and v, which the team's ranks have among them. */
void state_write(struct FileWriter *writer, const struct State *state, const struct Gpt2 *model, struct Team *team);

/* Reads the header and checks it against the size of the file, for a model of this shape; returns the
 * file descriptor. Dies with EXIT_MISSING or EXIT_BAD_DATA. */
int state_open(const char *path, struct State *state, const struct Config *config);

/* Reads the outliers' windows and the model's m and v, gives the other ranks theirs, verifies the checksum and closes the
 * file. The optimizer is the model's. Where they are stored as another type than the model's, they are converted, rounded
 * by random bits of the key. */
void state_read(int file, const char *path, enum MomentsType stored, struct Outliers *outliers,
                const struct Gpt2 *model, uint64_t key, const struct Ranks *ranks);

/* On a rank above 0: gets its own moments of the file that rank 0 reads. */
void state_receive(const struct Ranks *ranks, enum MomentsType stored, const struct Gpt2 *model, uint64_t key);

#endif
