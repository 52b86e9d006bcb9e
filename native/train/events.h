/* What a run reports: lines on stdout, for a person or as JSON, and metrics.jsonl.
 *
 * A step's numbers are measured after that many updates: the training loss of step 0 and the first
 * validation loss are both the untrained model's. Losses are printed with the 9 digits that give back
 * the same float32.
 */
#ifndef LLMC_EVENTS_H
#define LLMC_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "files/mixture.h"
#include "model/gpt2.h"
#include "train/outliers.h"
#include "train/stopping.h"
#include "train/team.h"

struct Events {
  bool json;     // stdout carries one JSON object a line
  int metrics;   // file descriptor of metrics.jsonl, or -1
  bool lost;     // metrics.jsonl lacks its last lines: it could not be written when the run was asked to stop
  int reason;    // the errno of that
  bool waiting;  // for room in metrics.jsonl
  bool unheard;  // stdout cannot be written: nothing more is said there
  size_t resume_at;  // bytes of metrics.jsonl to keep: what was told before the step that the run goes on from
};

struct StepMetrics {
  size_t step;
  double train_loss, lr, grad_norm, step_ms, tokens_per_second;
  double exchange_ms;    // of step_ms, in messages between ranks and waiting for them; 0 of a single process
  size_t counted;        // targets that the loss is the mean of, where there is a mask; else 0
  bool skipped;          // it stood out by these scores: no update was made
  struct Scores scores;
};

struct ValLoss {
  double mean;   // per token
  double error;  // its standard error, the windows being the sample; NAN of a single one, or of batches
};

/* Of the parts of a mixture, and their mean by weight. */
struct ValLosses {
  struct ValLoss all, parts[MOST_PARTS];
  size_t count;
};

/* Where a run is when its trainer begins, and what the machine can do. */
struct Beginning {
  size_t step, steps;  // made; to make: MOST_STEPS where that is not known
  double seconds;      // trained
  double peak_flops;   // floating-point operations a second
  double lr;           // of the first step to be made
};

struct Ending {
  enum EndReason reason;
  size_t step, steps;  // made; that were to be made, as in struct Beginning
  size_t skipped;      // of them without an update
  double seconds;      // trained, over all resumes
};

/* What a dry run measured; 0 for what the run will not do. */
struct Measured {
  size_t steps;                       // that were timed
  double step_ms, exchange_ms;        // their medians
  size_t val_batches, sample_tokens;  // in one validation, in one sample
  double val_batch_ms, token_ms;      // of one
};

/* If metrics.jsonl cannot be written, each of these functions reports that and waits until it can be; if a stop is
 * requested meanwhile, the lines are `lost`. */

/* Whether the run is to stop: a signal has asked for it, the program that reads its events was killed, or lines are lost. */
bool events_stop_wanted(const struct Events *);

/* Opens metrics.jsonl in the run's folder and cuts off what does not belong to the run so far. Dies with EXIT_BAD_DATA when
 * it cannot. */
void events_open_metrics(struct Events *, const char *folder);

/* Bytes of metrics.jsonl. */
size_t events_recorded(const struct Events *);

/* The plan, by parts that add up to the whole of the measured arena: the model's own, `buffers` for all
 * that was laid out after it, and what rounding up to huge pages adds. `available` is SIZE_MAX where it
 * is not known. With several ranks, what each of them takes, too. */
void events_start(struct Events *, const struct Gpt2 *model, const struct Arena *arena, size_t available,
                  size_t recompute_saves, const struct Beginning *at, const struct Team *team);
void events_step(struct Events *, const struct StepMetrics *metrics);
void events_validation(struct Events *, size_t step, const struct ValLosses *losses);
void events_sample(struct Events *, size_t step, const int *tokens, size_t count);
/* The last line of all; it is on the disk when this returns. False, with errno set, when it may not be. */
bool events_end(struct Events *, const struct Ending *ending);
void events_saved(struct Events *, size_t step, const char *folder);
/* Says a sentence to the person at the terminal: as an event, or on stderr. */
void events_note(struct Events *, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Reports that the run keeps `threads` threads of the `given` ones. */
void events_threads(struct Events *, int threads, int given);
/* Reports at `step` that the time allows so many steps in all. */
void events_planned(struct Events *, size_t step, size_t steps);
void events_measured(struct Events *, const struct Measured *measured);

#endif
