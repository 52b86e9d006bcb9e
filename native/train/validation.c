#include "train/validation.h"

#include <math.h>
#include <string.h>

#include "base/util.h"

enum { BATCH_TOKENS = 1024 };  // at a time, more or less: never by B, so that B cannot change a bit

static bool by_batches(const struct Run *run) { return run->options.val_batches > 0; }

static void choose_batches(struct Run *run) {
  const struct RunOptions *o = &run->options;
  struct DataLoader *val = &run->val.parts[0];
  if (run->val.count > 1) die(EXIT_USAGE, "--val-batches measures one text; give --val-tokens for several");
  if (val->masked) die(EXIT_USAGE, "--val-batches measures no text with a mask; give --val-tokens for %s", val->path);
  run->val.B = val->B = o->batch_size, run->val.T = val->T = o->seq_len;
  if (val->count <= (uint64_t)size_product(val->B, val->T)) {
    die(EXIT_BAD_DATA, "%s holds %llu tokens, less than one batch of %zu x %zu and the token after it; "
        "use a smaller --batch-size or --seq-len, or more text", val->path, (unsigned long long)val->count, val->B,
        val->T);
  }
}

/* Windows of a text that read `most` tokens; 0: all. */
static struct Windows choose_windows(struct DataLoader *part, uint64_t most, size_t maxT) {
  const uint64_t targets = part->count - 1;
  if (!part->masked) return windows_spread(targets, most, maxT);
  const size_t T = targets < maxT ? (size_t)targets : maxT;
  dataloader_cut(part, T);
  return windows_of_cuts(&part->cuts, most, T);
}

void validation_choose(struct Run *run) {
  const struct RunOptions *o = &run->options;
  struct Mixture *val = &run->val;
  if (by_batches(run)) {
    choose_batches(run);
    return;
  }
  size_t T = 0;
  uint64_t most = 0;
  for (size_t i = 0; i < val->count; i++) {
    struct Windows *windows = &run->validations[i].windows;
    *windows = choose_windows(&val->parts[i], mixture_share(val, i, o->val_tokens), run->model.config.maxT);
    T = size_max(T, windows->T);
    if (windows->count > most) most = windows->count;
  }
  val->B = 1, val->T = T;
  run->model.look = (struct Look){.B = size_min(ceil_div(BATCH_TOKENS, T), most), .T = T};
}

/* Batches of one part's windows. */
static size_t batches_of(const struct Run *run, size_t part) {
  if (by_batches(run)) return size_min(run->options.val_batches, dataloader_batches(&run->val.parts[0]));
  return ceil_div(run->validations[part].windows.count, run->model.look.B);
}

size_t validation_batches(const struct Run *run) {
  size_t batches = 0;
  for (size_t i = 0; i < run->val.count; i++) batches += batches_of(run, i);
  return batches;
}

/* A window's sum of losses, into the sums that mean and error follow from. */
static void add_window(struct Validation *v, double sum, double size) {
  v->loss += sum, v->tokens += size;
  v->loss2 += sum * sum, v->loss_tokens += sum * size, v->tokens2 += size * size;
}

static void measure(struct Run *run, size_t part, size_t i) {
  struct Validation *v = &run->validations[part];
  struct Gpt2 looking = gpt2_looking(&run->model);
  const size_t T = looking.T, first = i * looking.B;
  const size_t n = looking.B = size_min(looking.B, v->windows.count - first);
  memset(run->tokens, 0, n * T * sizeof(int));
  memset(run->targets, 0, n * T * sizeof(int));
  for (size_t b = 0; b < n; b++) {
    const struct Window w = windows_at(&v->windows, first + b);
    mixture_run(&run->val, part, w, run->tokens + b * T, run->targets + b * T);
  }
  gpt2_loss(&looking, run->tokens, run->targets);
  for (size_t b = 0; b < n; b++) {
    const struct Window w = windows_at(&v->windows, first + b);
    double sum = 0;  // where a target does not count, its loss is 0
    for (size_t t = 0; t < w.length; t++) sum += (double)looking.acts.losses[b * T + t];
    add_window(v, sum, (double)w.counted);
  }
}

void validation_batch(struct Run *run, size_t i) {
  if (by_batches(run)) {
    mixture_batch(&run->val, i, run->tokens, run->targets);
    add_window(&run->validations[0], gpt2_loss(&run->model, run->tokens, run->targets), 1);
    return;
  }
  size_t part = 0;
  for (; i >= batches_of(run, part); part++) i -= batches_of(run, part);
  measure(run, part, i);
}

/* The error of a ratio of sums over windows, drawn independently: Cochran, Sampling Techniques (1977), chapter 6. */
static struct ValLoss loss_of(const struct Validation *v, double windows) {
  const double mean = v->loss / v->tokens;
  const double squares = fmax(v->loss2 - 2 * mean * v->loss_tokens + mean * mean * v->tokens2, 0);
  return (struct ValLoss){mean, windows < 2 ? (double)NAN : sqrt(windows / (windows - 1) * squares) / v->tokens};
}

/* The mean of strata by weight: chapter 5 there. */
static struct ValLoss mean_of(const struct Mixture *val, const struct ValLoss *parts) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < val->count; i++) {
    const double share = (double)val->weights[i] / (double)val->weight;
    mean += share * parts[i].mean;
    variance += share * parts[i].error * share * parts[i].error;
  }
  return (struct ValLoss){mean, sqrt(variance)};
}

bool validation_loss(struct Run *run, struct ValLosses *losses) {
  const size_t batches = validation_batches(run), parts = run->val.count;
  for (size_t i = 0; i < parts; i++) {
    run->validations[i] = (struct Validation){.windows = run->validations[i].windows};
  }
  for (size_t i = 0; i < batches; i++) {
    validation_batch(run, i);
    if (run_asked_to_stop(run)) return false;
  }
  losses->count = parts;
  for (size_t i = 0; i < parts; i++) {
    const struct Validation *v = &run->validations[i];
    losses->parts[i] = loss_of(v, by_batches(run) ? 1 : (double)v->windows.count);
  }
  losses->all = parts == 1 ? losses->parts[0] : mean_of(&run->val, losses->parts);
  return true;
}
