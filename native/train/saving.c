#include "train/saving.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/disk.h"
#include "base/interrupts.h"
#include "base/util.h"
#include "train/run.h"

enum { AGAIN_SECONDS = 10 };

size_t saving_bytes(const struct Run *run) {
  const struct RunOptions *o = &run->options;
  return checkpoint_bytes(&run->model.config) + state_bytes(&run->model.config, o->optimizer_state, o->optimizer);
}

/* Besides those that are kept, one is being written, and one is the best. */
size_t saving_least(const struct Run *run) {
  const struct RunOptions *o = &run->options;
  const bool several = o->save_every.steps > 0 || o->limits.patience > 0;
  return (several ? o->keep + 1 + (o->val_data.count > 0) : 1) * saving_bytes(run);
}

/* ---- when ----------------------------------------------------------------------------------------- */

void saving_begin(struct Run *run) { run->pace.last = run->pace.asked = clock_seconds(); }

/* Seconds until the run ends, as far as its steps and its time say. */
static double seconds_left(const struct Run *run, size_t step) {
  const double spent = clock_seconds() - run->began, limit = run->options.limits.seconds;
  const double each = spent / (double)size_max(step - run->first_step, 1);
  double left = run->steps < MOST_STEPS ? each * (double)(run->steps - step) : INFINITY;
  if (limit > 0 && run->planned == 0) left = fmin(left, limit - run_seconds(run));
  return left;
}

/* As few words as tell it: 10 minutes, 90 seconds. */
static const char *spoken(char text[48], double seconds) {
  const bool hours = seconds >= 7200, minutes = seconds >= 120;
  const double unit = hours ? 3600 : minutes ? 60 : 1;
  snprintf(text, 48, "%.3g %s", round(seconds / unit * 10) / 10, hours ? "hours" : minutes ? "minutes" : "seconds");
  return text;
}

/* Whether the run will be long shows when it has trained for a while. */
static void announce(struct Run *run, size_t step) {
  enum { LOOK_SECONDS = 3, LOOK_STEPS = 3 };
  const double every = run->options.save_every.seconds;
  if (run->pace.announced || step < run->first_step + LOOK_STEPS) return;
  if (clock_seconds() - run->began < fmin(LOOK_SECONDS, every)) return;
  run->pace.announced = true;
  const double left = seconds_left(run, step);
  if (left <= every) return;
  char how_long[48], often[48], room[96] = "";
  if (disk_available(run->options.out) < (double)saving_bytes(run)) {
    snprintf(room, sizeof room, "; the disk has no room for another one: free some space");
  }
  events_note(&run->events, "about %s to go: a checkpoint of %.1f MB is saved at least every %s (--save-every)%s",
              isfinite(left) ? spoken(how_long, left) : "an unknown time", (double)saving_bytes(run) / 1e6,
              spoken(often, every), room);
}

bool saving_due(struct Run *run, size_t step) {
  const struct ArgEvery *every = &run->options.save_every;
  struct Pace *pace = &run->pace;
  if (run->options.out == NULL || step == 0) return false;
  const double now = clock_seconds();
  if (pace->again > 0 && now >= pace->again) return true;
  if (every->steps > 0) return step % every->steps == 0;
  if (every->seconds <= 0) return false;
  announce(run, step);
  pace->longest = fmax(now - pace->asked, 0.9 * pace->longest);
  pace->asked = now;
  pace->now = step > run->first_step && now - pace->last + pace->longest > every->seconds;
  return pace->now;
}

/* ---- where the disk refuses ------------------------------------------------------------------------ */

/* The update before may have broken the weights, which nothing but a loss of theirs shows. */
static void check_weights(struct Run *run, size_t step) {
  if (run->checkpoint.has_val_loss) return;
  const struct Team *team = &run->team;
  mixture_batch(&run->train, step * run->options.parts, team->tokens, team->targets);
  const double loss = gpt2_loss(&run->model, team->tokens, team->targets);
  if (isfinite(loss)) return;
  char numbers[64];
  snprintf(numbers, sizeof numbers, "the loss is %g", unsigned_nan(loss));
  run_end_not_finite(run, step, numbers);
}

static int fault_of(const struct Run *run) {
  return run->events.lost ? run->events.reason : run->saver.fault.reason;
}

static const char *why(const struct Run *run, char text[SAVER_PATH + 128]) {
  const int reason = fault_of(run);
  const char *words = file_no_room(reason) ? "the disk has no room for" : "cannot write";
  const char *place = run->events.lost ? run->options.out : run->saver.fault.path;
  snprintf(text, SAVER_PATH + 128, "%s %s%s (%s)", words, place, run->events.lost ? "/metrics.jsonl" : "",
           strerror(reason));
  return text;
}

static bool save_alone(struct Run *run, size_t step) {
  run->checkpoint.step = (uint32_t)step;
  if (run->alone == step + 1) return true;
  if (!saver_weights(&run->saver, &run->checkpoint, &run->model)) return false;
  run->alone = step + 1;
  return true;
}

void saving_die(struct Run *run, size_t step) {
  char reason[SAVER_PATH + 128], before[96] = "no checkpoint is there to resume from";
  char model[SAVER_PATH], state[SAVER_PATH];
  const char *out = run->options.out, *advice = file_remedy(fault_of(run));
  if (saver_newest(&run->saver, model, state) && disk_there(state)) {  // the folder may be gone
    snprintf(before, sizeof before, "a resume goes on from step %zu", saver_step(&run->saver));
  }
  why(run, reason);
  if (run->alone == step + 1) {
    die(EXIT_BAD_DATA, "%s: the weights of step %zu are saved alone, in %s/model.bin; %s; %s", reason, step, out, advice,
        before);
  }
  die(EXIT_BAD_DATA, "%s: the weights of step %zu are not saved; %s; %s", reason, step, advice, before);
}

/* A limit of the process itself does not go away, nor does a folder in a file's place. */
static bool lasts(int reason) {
  return reason == EFBIG || reason == EISDIR || reason == ENOTDIR || reason == EEXIST || reason == ENOTEMPTY ||
         reason == ENAMETOOLONG;
}

/* On the way, training goes on, unless it would fail again for ever. */
static void refused(struct Run *run, size_t step) {
  char reason[SAVER_PATH + 128];
  const bool first = run->pace.again == 0, waits = !lasts(run->saver.fault.reason);
  why(run, reason);
  const struct SaverFault fault = run->saver.fault;
  const bool alone = (first || !waits) && save_alone(run, step);
  run->saver.fault = fault;
  if (!waits) saving_die(run, step);
  run->pace.again = clock_seconds() + (file_no_room(fault.reason) ? AGAIN_SECONDS : 0);
  if (!first) return;
  events_note(&run->events, "%s; %s; training goes on and tries again: %s", reason,
              alone ? "the weights are saved alone, in model.bin" : "this step is not saved", file_remedy(fault.reason));
}

void saving_report(struct Run *run, size_t step) {
  switch (saver_news(&run->saver)) {
    case SAVER_NO_NEWS: return;
    case SAVER_FAILED:
      run->best_val_loss = run->best_before;
      refused(run, step);
      return;
    case SAVER_SAVED: break;
  }
  events_saved(&run->events, saver_step(&run->saver), run->options.out);
  if (run->pace.again > 0) events_note(&run->events, "step %zu is saved", saver_step(&run->saver));
  run->pace.again = 0;
}

/* ---- saving --------------------------------------------------------------------------------------- */

static bool try_to_save(struct Run *run, size_t step, bool told, bool may_be_best) {
  const struct RunOptions *o = &run->options;
  const bool is_best = may_be_best && run_is_best(run);
  const double best = is_best ? run->val_loss : run->best_val_loss;
  const struct State state = {
      .step = step, .metrics_bytes = events_recorded(&run->events), .draws = run->sampling.draws,
      .best_val_loss = best, .seed = o->seed, .seq_len = o->seq_len,
      .update_tokens = run_update_tokens(o), .shares = o->shares, .shuffle = o->shuffle, .whole = run->train.whole,
      .aligned = run->train.aligned, .told = told,
      .seconds = run_seconds(run), .planned = run->planned,
      .skipped = run->skipped, .patience = run->patience, .outliers = run->outliers};
  run->checkpoint.step = (uint32_t)step;
  if (!saver_save(&run->saver, &run->checkpoint, &state, &run->model, is_best)) return false;
  run->best_before = run->best_val_loss;
  run->best_val_loss = best;
  return true;
}

void saving_save(struct Run *run, size_t step, bool told, bool may_be_best) {
  struct Pace *pace = &run->pace;
  if (run->options.out == NULL) return;
  const double began = clock_seconds();
  saver_wait(&run->saver);
  saving_report(run, step);
  check_weights(run, step);
  /* What fails for another reason than room may not fail again. */
  if (!try_to_save(run, step, told, may_be_best) &&
      (file_no_room(run->saver.fault.reason) || !try_to_save(run, step, told, may_be_best))) {
    refused(run, step);
  }
  pace->last = clock_seconds();
  if (pace->now && !pace->timed && pace->again == 0) {
    events_note(&run->events, "saving step %zu took %.2f seconds of the training", step, pace->last - began);
  }
  pace->timed |= pace->now;
  pace->now = false;
}

/* Waits a while at the end of a run that cannot be saved. False when it is to give up. */
static bool wait_for_room(struct Run *run, size_t step, bool asked, int tries) {
  const bool by_hand = asked && interrupted_by_hand() && interrupts_at_terminal();
  if (asked && !by_hand && tries == 2) return false;
  if (tries == 0 && (by_hand || !asked)) {
    char reason[SAVER_PATH + 128];
    events_note(&run->events, "%s: the weights of step %zu are in memory alone. llmc tries again until it can save them: "
                "%s. %s", why(run, reason), step, file_remedy(fault_of(run)),
                asked ? "Ctrl-C again gives them up" : "Ctrl-C or SIGTERM gives them up");
  }
  for (int i = 0; i < 10; i++) {
    clock_wait(100);
    if (!asked && run_asked_to_stop(run)) return false;
  }
  return true;
}

bool saving_last(struct Run *run, size_t step, bool told) {
  struct Saver *saver = &run->saver;
  if (run->options.out == NULL) return true;
  const bool asked = run_asked_to_stop(run);
  saver_wait(saver);
  saving_report(run, step);
  check_weights(run, step);
  for (int tries = 0;; tries++) {
    if (!run->events.lost && try_to_save(run, step, told, true)) {
      saver_wait(saver);
      const enum SaverNews news = saver_news(saver);
      if (news == SAVER_SAVED) {
        events_saved(&run->events, step, run->options.out);
        return true;
      }
      run->best_val_loss = run->best_before;
    }
    const struct SaverFault fault = saver->fault;
    const bool alone = save_alone(run, step);
    saver->fault = fault;
    if (alone) return false;
    if (lasts(fault.reason) || !wait_for_room(run, step, asked, tries)) saving_die(run, step);
  }
}
