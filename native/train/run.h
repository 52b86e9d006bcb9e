/* A training run: its settings, its state, and everything that it can do. train.c decides when. */
#ifndef LLMC_RUN_H
#define LLMC_RUN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/args.h"
#include "files/checkpoint.h"
#include "files/mixture.h"
#include "files/windows.h"
#include "train/events.h"
#include "model/gpt2.h"
#include "train/saver.h"
#include "train/saving.h"
#include "train/schedule.h"
#include "train/stopping.h"
#include "train/state.h"
#include "train/team.h"
#include "train/threads.h"
#include "sample/batch.h"

/* How windows lie in the text: one after the other, or cut where documents begin. */
enum { WINDOWS_PACKED, WINDOWS_ALIGNED };
extern const char *const WINDOWS_NAMES[];  // in this order

struct RunOptions {
  struct ArgList data, val_data;
  const char *planned_out;  // where a dry run would write
  const char *sample_prompt;  // token ids with commas between them; NULL: end-of-text
  const char *weights, *val_weights, *model, *out, *events, *unused, *prefer_isa;
  struct Limits limits;
  size_t batch_size, seq_len, total_batch_size, threads, seed;
  size_t val_every, val_tokens, val_batches, sample_every, sample_tokens, sample_stop, keep, eot;
  struct ArgEvery save_every;
  struct Schedule schedule;  // its steps are those of the run
  double lr, lr_final, beta1, beta2, eps, weight_decay, dropout, grad_clip, skip_loss_z, skip_grad_z;
  bool shuffle, recompute, resume, dry_run, forget_best, new_schedule, fewer_threads;
  unsigned windows;
  enum Dtype dtype, exchange_dtype;
  enum Optimizer optimizer;
  enum MomentsType optimizer_state;
  size_t resume_from;  // the step; MOST_STEPS: the newest
  size_t shares, parts;  // of an update: in which it is added up; batches of (B, T)
};

/* Of one text: the validation tokens that are measured, and sums over the windows of them that were. */
struct Validation {
  struct Windows windows;
  double loss, tokens, loss2, loss_tokens, tokens2;
};

struct Run {
  struct RunOptions options;
  struct Checkpoint checkpoint;
  struct Gpt2 model;
  struct Team team;
  struct Mixture train, val;
  struct Validation validations[MOST_PARTS];  // of each part of val
  struct Batch batch;
  struct Sampling sampling;
  struct Events events;
  int *written;                     // (sample_tokens)
  int *prompt;                      // (prompt_count) of samples
  size_t prompt_count, written_count;
  struct Saver saver;
  struct Pace pace;
  size_t first_step, alone;         // from which this trainer goes on; 1 + the step of weights that were saved alone
  double val_loss, best_val_loss;   // the newest; the lowest of a checkpoint
  double best_before;               // the lowest before the newest checkpoint
  size_t steps;                     // updates until the limits that count them, or a plan, end the run
  enum EndReason steps_reason;      // which of these it is
  size_t planned;                   // steps, once --max-time has nothing more to say; 0 before, and without wsd
  struct Patience patience;
  struct Outliers outliers;
  struct ThreadTrial thread_trial;
  size_t skipped;                   // updates that were not made
  size_t shares_before;             // of an update, until the checkpoint from which the run goes on
  const struct Kernels *own_kernels; // that this machine would take, if it were alone
  char advice[96];                  // to a person, where the other ranks do not answer
  double began, seconds_before;     // when this trainer did; what the trainers before it took
};

/* Lays the run out in the arena, the model first (see arena.h: called twice). */
void run_layout(struct Run *run, struct Arena *arena);

/* How many updates the limits allow, the data being open. Dies with EXIT_USAGE when a schedule needs to know
 * and cannot, or when so few do not reach its end; an old run's schedule is left as it was. */
void run_count_steps(struct Run *run);

/* Under --max-time a wsd schedule begins its decay when only the decay's part of the time is left. From then on the
 * run goes on by steps: as many as take that time, at the speed so far, so that a run told that number of steps has
 * the same rates. Called before every update. */
void run_plan(struct Run *run, size_t step);

/* Whether all gradients must be there at once: to clip or judge their norm, or to sum up parts of a batch. */
bool run_needs_gradients(const struct RunOptions *options);

/* Makes update number `step` + 1. Dies with EXIT_NOT_FINITE. */
struct StepMetrics run_step(struct Run *run, size_t step);

/* Why the run ends before update number `step` + 1; GOES_ON if it does not. */
enum EndReason run_ends(const struct Run *run, size_t step);

/* Tells that it ended, when all that was to be saved is on the disk. False, with errno set, where metrics.jsonl cannot say
 * so. */
bool run_end(struct Run *run, size_t step, enum EndReason reason);

/* Ends a run whose loss is not a number. The weights in memory are lost, those on the disk are not. */
_Noreturn void run_end_not_finite(struct Run *run, size_t step, const char *numbers);

/* Tokens in an update. */
uint64_t run_update_tokens(const struct RunOptions *options);

/* Seconds of training, over all resumes. */
double run_seconds(const struct Run *run);

/* Whether the run is to stop: a signal has asked for it, or the program that started the run to listen to it was killed. */
bool run_asked_to_stop(const struct Run *run);

/* Writes what follows the options' prompt, or the end-of-text token, the vocabulary's last unless the options name it;
 * at most `count` tokens, into run->written. Returns how many fit into the model's context, or were written until the
 * options' stop token was, or until it was asked to stop. */
size_t run_write(struct Run *run, size_t count);

/* Makes a step's validation and its sample, where they are due, and reports them when both are done. False where a stop was
 * requested before that: neither is reported or kept. Dies with EXIT_NOT_FINITE. */
bool run_evaluate(struct Run *run, size_t step, bool validates, bool samples);

/* Whether the weights have the lowest validation loss of those that were saved. */
bool run_is_best(const struct Run *run);

/* A checkpoint to go on from. */
struct Resumed {
  size_t step;
  bool told, is_best;
  bool whole;                // its windows cover all of the text, as those of older versions did not
  enum MomentsType moments;  // how they are stored
  int model, state;  // file descriptors
  char model_path[SAVER_PATH], state_path[SAVER_PATH];
};

/* Opens the checkpoint of the run's folder that the options name, or the newest; false where there is none. Dies with
 * EXIT_USAGE when the one named is not there, or the data would come in another order. */
bool run_find(struct Run *run, struct Resumed *resumed);

/* The key of the random bits that round its moments where they are stored otherwise from now on. */
uint64_t run_state_key(const struct Run *run, const struct Resumed *resumed);

/* Reads it into the arena; what was saved after it is removed. */
void run_restore(struct Run *run, const struct Resumed *resumed);

#endif
