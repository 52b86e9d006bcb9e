/* A training run: its settings, its state, and everything that it can do. When, is train.c's policy. */
#ifndef LLMC_RUN_H
#define LLMC_RUN_H

#include <stdbool.h>
#include <stddef.h>

#include "checkpoint.h"
#include "dataloader.h"
#include "events.h"
#include "gpt2.h"
#include "saver.h"
#include "schedule.h"
#include "writer.h"

struct RunOptions {
  const char *data, *val_data, *model, *out, *events;
  size_t steps, batch_size, seq_len, total_batch_size, threads, seed;
  size_t val_every, val_batches, sample_every, sample_tokens, save_every, keep, eot;
  struct Schedule schedule;
  double lr, lr_final, beta1, beta2, eps, weight_decay, grad_clip;
  bool shuffle, recompute, resume, dry_run;
  enum Dtype dtype;
  size_t parts;  // batches of (B, T) whose gradients make one update
};

struct Run {
  struct RunOptions options;
  struct Checkpoint checkpoint;
  struct Gpt2 model;
  struct DataLoader train, val;
  struct Writer writer;
  struct Sampling sampling;
  struct Events events;
  int *tokens, *targets, *written;  // (B, T), (B, T), (sample_tokens)
  size_t written_count;
  struct Saver saver;
  double val_loss, best_val_loss;   // the newest; the lowest of a checkpoint
};

/* Lays the run out in the arena, the model first (see arena.h: called twice). */
void run_layout(struct Run *run, struct Arena *arena);

/* Makes update number `step` + 1. Dies with EXIT_NOT_FINITE. */
struct StepMetrics run_step(struct Run *run, size_t step);

/* Batches in a validation. */
size_t run_val_batches(const struct Run *run);

/* The mean loss of validation batch `i`. */
double run_val_batch(struct Run *run, size_t i);

/* Validates and tells. Dies with EXIT_NOT_FINITE. */
void run_validate(struct Run *run, size_t step);

/* Writes from the end-of-text token on, the vocabulary's last unless the options name it; at most `count`
 * tokens, into run->written. Returns how many fit into the model's context. */
size_t run_write(struct Run *run, size_t count);

/* Writes a sample and tells. */
void run_sample(struct Run *run, size_t step);

/* Saves and tells, where the run has a folder. `told`: after the step's validation and sample. */
void run_save(struct Run *run, size_t step, bool told);

/* A checkpoint to go on from. */
struct Resumed {
  size_t step;
  bool told;
  int model, state;  // file descriptors
  char model_path[SAVER_PATH], state_path[SAVER_PATH];
};

/* Opens the newest checkpoint of the run's folder; false where there is none. Dies with EXIT_USAGE when the
 * settings do not go on with that run. */
bool run_find(struct Run *run, struct Resumed *resumed);

/* Reads it into the arena. */
void run_restore(struct Run *run, const struct Resumed *resumed);

#endif
