#include "train/run.h"

#include <math.h>
#include <stdio.h>

#include "base/util.h"
#include "train/shares.h"
#include "train/validation.h"

const char *const WINDOWS_NAMES[] = {"packed", "aligned", NULL};

static void set_team(struct Run *run) {
  const struct RunOptions *o = &run->options;
  struct Team *team = &run->team;
  struct Gpt2 *model = &run->model;
  team->shares = o->shares, team->parts = o->parts, team->B = o->batch_size, team->T = o->seq_len;
  team->eval_B = model->eval.B, team->eval_T = model->eval.T, team->exchange_dtype = o->exchange_dtype;
  model->rank = (size_t)team->ranks.rank, model->ranks = (size_t)team->ranks.count;
  model->adds_apart = team_adds_apart(team);
}

void run_layout(struct Run *run, struct Arena *arena) {
  const struct RunOptions *o = &run->options;
  set_team(run);
  gpt2_layout(&run->model, arena, o->batch_size, o->seq_len, true);
  team_layout(&run->team, arena, &run->model);
  mixture_layout(&run->train, arena);
  if (o->val_data.count > 0) mixture_layout(&run->val, arena);
  const size_t maxT = run->model.config.maxT, prompted = o->sample_prompt != NULL ? run->prompt_count : 0;
  decoder_layout_beside(&run->batch.decoder, arena, &run->model, size_min(prompted + o->sample_tokens, maxT));
  batch_layout(&run->batch, arena);
  run->written = arena_alloc(arena, o->sample_tokens, sizeof(int));
  run->prompt = arena_alloc(arena, run->prompt_count, sizeof(int));
}

static const double MOST_TIMED_DECAY = 0.9;

uint64_t run_update_tokens(const struct RunOptions *o) { return o->parts * o->batch_size * o->seq_len; }

/* Refuses a schedule whose warmup and decay need more updates than there are. */
static void check_schedule(const struct Run *run) {
  const struct Schedule *s = &run->options.schedule;
  const char *limits[] = {[END_STEPS] = "steps", [END_TOKENS] = "max-tokens", [END_EPOCHS] = "epochs"};
  const char *limit = limits[run->steps_reason];
  const size_t decay = schedule_least_decay(s);
  if (s->warmup == 0 || s->steps == 0 || s->warmup + decay <= s->steps) return;
  if (s->warmup > s->steps) {
    die(EXIT_USAGE, "--warmup %zu is longer than the run, which has %zu updates (--%s): the rate would never reach "
        "--lr; use a smaller --warmup or a larger --%s", s->warmup, s->steps, limit, limit);
  }
  die(EXIT_USAGE, "--warmup %zu leaves less than the %zu updates that --schedule %s decays in, of %zu (--%s); use "
      "--warmup %zu or less%s", s->warmup, decay, SCHEDULE_NAMES[s->shape], s->steps, limit, s->steps - decay,
      s->shape == WSD ? ", or a smaller --decay" : "");
}

/* The run ends after so many steps, whatever the time is. */
static void set_end(struct Run *run, size_t steps) {
  if (steps < run->steps) run->steps_reason = END_TIME;
  run->planned = run->steps = run->options.schedule.steps = size_min(steps, run->steps);
}

void run_count_steps(struct Run *run) {
  struct RunOptions *o = &run->options;
  const struct Portion update = {run_update_tokens(o), o->parts * o->batch_size, mixture_epoch(&run->train)};
  run->steps = stopping_steps(&o->limits, &update, &run->steps_reason);
  const bool timed = o->schedule.shape == WSD && o->limits.seconds > 0;
  if (run->steps == MOST_STEPS && o->schedule.shape != CONSTANT && !timed) {
    die(EXIT_USAGE, "--schedule %s decays towards the last step, and nothing says which step that is; give --steps, "
        "--max-tokens or --epochs too, or --schedule wsd with --max-time", SCHEDULE_NAMES[o->schedule.shape]);
  }
  o->schedule.steps = run->steps;
  if (run->planned > 0) set_end(run, run->planned);
  if (o->resume && !o->new_schedule) return;
  if (timed && o->schedule.decay > MOST_TIMED_DECAY) {
    die(EXIT_USAGE, "--decay %g leaves too little of --max-time to measure how many steps it has; use --decay %g or "
        "less, or --steps without --max-time", o->schedule.decay, MOST_TIMED_DECAY);
  }
  check_schedule(run);
}

void run_plan(struct Run *run, size_t step) {
  const struct Schedule *s = &run->options.schedule;
  const double limit = run->options.limits.seconds;
  if (s->shape != WSD || limit == 0 || run->planned > 0 || step == 0 || step < s->warmup) return;
  if (step >= schedule_decay_begins(s)) {
    set_end(run, run->steps);  // the decay has begun, and is made to its end
  } else if (run_seconds(run) >= (1 - s->decay) * limit) {
    set_end(run, schedule_wsd_steps(s->decay, step));
    if (run->steps_reason == END_TIME) events_planned(&run->events, step, run->steps);
  }
}

double run_seconds(const struct Run *run) { return run->seconds_before + clock_seconds() - run->began; }

enum EndReason run_ends(const struct Run *run, size_t step) {
  if (step >= run->steps) return run->steps_reason;
  return stopping_reason(&run->options.limits, run->planned > 0 ? 0 : run_seconds(run), &run->patience);
}

bool run_end(struct Run *run, size_t step, enum EndReason reason) {
  saver_wait(&run->saver);
  if (saver_news(&run->saver) == SAVER_SAVED) {
    events_saved(&run->events, saver_step(&run->saver), run->options.out);
  }
  const struct Ending ending = {.reason = reason, .step = step, .steps = run->steps, .skipped = run->skipped,
                                .seconds = run_seconds(run)};
  return events_end(&run->events, &ending);
}

/* Ends a run whose loss is not a number. The weights in memory are lost, those on the disk are not. */
void run_end_not_finite(struct Run *run, size_t step, const char *numbers) {
  char saved[80] = "no weights were saved";
  run_end(run, step, END_NOT_FINITE);
  if (step == 0) {
    const char *model = run->options.model;
    die(EXIT_NOT_FINITE, "%s before the first update: the weights in %s are broken; 'llmc inspect %s' looks at them, "
        "and --model names others", numbers, model, model);
  }
  if (run->saver.count > 0) {
    snprintf(saved, sizeof saved, "the weights of step %zu are saved, and their loss is finite",
             saver_step(&run->saver));
  }
  die(EXIT_NOT_FINITE, "%s at step %zu; %s; try a smaller --lr", numbers, step, saved);
}

bool run_needs_gradients(const struct RunOptions *o) {
  return o->grad_clip > 0 || o->skip_loss_z > 0 || o->skip_grad_z > 0 || o->parts > 1;
}

static bool judges(const struct RunOptions *o) { return o->skip_loss_z > 0 || o->skip_grad_z > 0; }

/* Judges the step that the gradients are of; true if its update is to be skipped. */
static bool stands_out(struct Run *run, struct StepMetrics *m) {
  const struct RunOptions *o = &run->options;
  if (!judges(o)) return false;
  m->scores = outliers_take(&run->outliers, m->train_loss, m->grad_norm);
  return (o->skip_loss_z > 0 && m->scores.loss > o->skip_loss_z) ||
         (o->skip_grad_z > 0 && m->scores.norm > o->skip_grad_z);
}

static void make_step(struct Run *run, const struct UpdateConfig *update, struct StepMetrics *m) {
  const size_t rows = run->options.parts * run->options.batch_size;
  const size_t counted = mixture_counted(&run->train, m->step * rows, rows);
  if (mixture_is_cut(&run->train)) m->counted = counted;
  struct Team *team = &run->team;
  team_clock(team);
  if (run->model.update_in_backward) {
    run->model.dropout.step = m->step;
    mixture_batch(&run->train, m->step, team->tokens, team->targets);
    const struct StepResult result = gpt2_step(&run->model, team->tokens, team->targets, update, m->step + 1);
    m->train_loss = result.loss, m->grad_norm = result.norm;
    return;
  }
  m->train_loss = team_gradients(team, &run->model, &run->train, m->step, counted);
  if (team->shares > 1 || judges(&run->options)) m->grad_norm = team_norm(team, &run->model);
  m->skipped = stands_out(run, m);
  if (m->skipped) run->skipped++;
  else m->grad_norm = team_update(team, &run->model, update, m->step + 1, m->grad_norm);
}

static void choose_threads(struct Run *run, double step_ms) {
  struct ThreadTrial *trial = &run->thread_trial;
  if (trial->settled) return;
  threads_take(trial, run->model.workers.pool, step_ms);
  if (trial->settled && trial->best > 0) {
    events_threads(&run->events, threads_halved(trial->given, trial->best), trial->given);
  }
}

/* Ranks wait for each other as long as an update takes, and a slower one may take longer. */
static void watch_ranks(struct Run *run, double seconds) {
  enum { LEAST = 60, UPDATES = 20 };
  snprintf(run->advice, sizeof run->advice, "Ctrl-C twice ends all ranks, and no checkpoint is there to go on from");
  if (run->saver.count > 0) {
    snprintf(run->advice, sizeof run->advice, "Ctrl-C twice ends all ranks, and a resume goes on from step %zu",
             saver_step(&run->saver));
  }
  ranks_watch(&run->team.ranks, fmax(LEAST, UPDATES * seconds), run->events.json, run->advice);
}

struct StepMetrics run_step(struct Run *run, size_t step) {
  const struct RunOptions *o = &run->options;
  const double started = clock_seconds(), lr = schedule_lr(&o->schedule, step);
  const struct UpdateConfig update = {lr, o->beta1, o->beta2, o->eps, o->weight_decay, o->grad_clip, o->seed};
  struct StepMetrics m = {.step = step, .lr = lr};
  make_step(run, &update, &m);
  if (!isfinite(m.train_loss) || !isfinite(m.grad_norm)) {
    char numbers[96];
    snprintf(numbers, sizeof numbers, "the loss is %g and the gradient's norm %g", unsigned_nan(m.train_loss),
             unsigned_nan(m.grad_norm));
    run_end_not_finite(run, step, numbers);
  }
  run->checkpoint.has_val_loss = false;  // it was the weights' before this update
  const double seconds = clock_seconds() - started;
  m.step_ms = 1e3 * seconds;
  const bool several = run->team.ranks.count > 1;
  if (several) m.exchange_ms = 1e3 * run->team.exchanging;
  if (several) watch_ranks(run, seconds);
  choose_threads(run, several ? 1e3 * run->team.computing : m.step_ms);
  m.tokens_per_second = (double)run_update_tokens(o) / seconds;
  return m;
}

bool run_asked_to_stop(const struct Run *run) { return events_stop_wanted(&run->events); }

/* False when asked to stop before the last batch. */
static bool validate(struct Run *run, size_t step, struct ValLosses *loss) {
  if (!validation_loss(run, loss)) return false;
  if (isfinite(loss->all.mean)) return true;
  char numbers[64];
  snprintf(numbers, sizeof numbers, "the validation loss is %g", unsigned_nan(loss->all.mean));
  run_end_not_finite(run, step, numbers);
}

static void on_token(void *context, const struct Text *text, const struct Told *told) {
  struct Run *run = context;
  run->written[text->written - 1] = told->token;
}

static void on_end(void *context, const struct Text *text, enum TextEnd ending) {
  struct Run *run = context;
  (void)ending;
  run->written_count = text->written;
}

size_t run_write(struct Run *run, size_t count) {
  const struct RunOptions *o = &run->options;
  const size_t V = run->model.config.V, positions = run->batch.decoder.positions;
  const size_t prompted = prompt_parse("sample-prompt", o->sample_prompt, V, (int)(o->eot < INT32_MAX ? o->eot : V - 1),
                                       run->prompt);
  const size_t kept = request_context(prompted, positions);
  const struct Request request = {.sampling = run->sampling, .eot = o->sample_stop < INT32_MAX ? (int)o->sample_stop : -1,
                                  .count = kept, .prompt = run->prompt + prompted - kept,
                                  .tokens = size_min(count, positions)};
  run->batch.listener = (struct Listener){run, NULL, on_token, on_end};
  batch_begin(&run->batch, &request);
  while (run->batch.active > 0 && !run_asked_to_stop(run)) batch_turn(&run->batch);
  if (run->batch.active > 0) batch_cancel(&run->batch, run->batch.texts);
  return run->written_count;
}

bool run_evaluate(struct Run *run, size_t step, bool validates, bool samples) {
  struct ValLosses losses = {0};
  if (validates && !validate(run, step, &losses)) return false;
  const double loss = losses.all.mean;
  const size_t written = samples ? run_write(run, run->options.sample_tokens) : 0;
  if (samples && run_asked_to_stop(run)) return false;
  if (validates) {
    run->val_loss = loss;
    run->checkpoint.has_val_loss = true;
    run->checkpoint.val_loss = (float)loss;
    patience_take(&run->patience, &run->options.limits, loss);
    events_validation(&run->events, step, &losses);
  }
  if (samples) {
    run->sampling.draws += written;
    events_sample(&run->events, step, run->written, written);
  }
  return true;
}

/* ---- checkpoints --------------------------------------------------------------------------------- */

bool run_is_best(const struct Run *run) {
  return run->checkpoint.has_val_loss && run->val_loss < run->best_val_loss;
}

/* Refuses to go on with other data than the run would have seen, or with another optimizer. */
static void check_same(const struct RunOptions *o, const struct State *state) {
  const struct { const char *name; uint64_t was, is; } settings[] = {
      {"seed", state->seed, o->seed},
      {"seq-len", state->seq_len, o->seq_len},
      {"shuffle", state->shuffle, o->shuffle},
      {"total-batch-size", state->update_tokens, run_update_tokens(o)},
  };
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
    if (settings[i].was == settings[i].is) continue;
    die(EXIT_USAGE, "the run in %s has --%s %llu, not %llu, and the order of its data follows from it; leave it as "
        "it was, or start a new run from its weights", o->out, settings[i].name, (unsigned long long)settings[i].was,
        (unsigned long long)settings[i].is);
  }
  if (state->aligned != (o->windows == WINDOWS_ALIGNED)) {
    die(EXIT_USAGE, "the run in %s has --windows %s, not %s, and the order of its data follows from it; leave it as it was, "
        "or start a new run from its weights", o->out, WINDOWS_NAMES[state->aligned], WINDOWS_NAMES[o->windows]);
  }
  if (state->optimizer != o->optimizer) {
    die(EXIT_USAGE, "the run in %s has --optimizer %s, not %s, and its training state is of use to that one alone; leave it "
        "as it was, or start a new run from its weights", o->out, optimizer_name(state->optimizer),
        optimizer_name(o->optimizer));
  }
}

bool run_find(struct Run *run, struct Resumed *resumed) {
  const struct RunOptions *o = &run->options;
  if (o->resume_from != MOST_STEPS && !saver_go_back(&run->saver, o->resume_from)) {
    die(EXIT_USAGE, "%s has no checkpoint of step %zu; its folder checkpoints shows those there are", o->out,
        o->resume_from);
  }
  if (!saver_newest(&run->saver, resumed->model_path, resumed->state_path)) return false;
  resumed->step = saver_step(&run->saver);
  struct State state;
  resumed->model = checkpoint_open(resumed->model_path, &run->checkpoint);
  resumed->state = state_open(resumed->state_path, &state, &run->checkpoint.config);
  shares_settle(run, &state);
  check_same(o, &state);
  if (state.step != resumed->step || run->checkpoint.step != resumed->step) {
    die(EXIT_BAD_DATA, "%s or the file beside it is not of step %zu; delete their folder to go on from the "
        "checkpoint before it", resumed->state_path, resumed->step);
  }
  /* The header has the digits of a float: of the best, the state has all. */
  const struct Checkpoint *saved = &run->checkpoint;
  const bool is_best = saved->has_val_loss && (float)state.best_val_loss == saved->val_loss;
  run->val_loss = is_best ? state.best_val_loss : saved->has_val_loss ? (double)saved->val_loss : INFINITY;
  run->best_val_loss = o->forget_best ? INFINITY : state.best_val_loss;
  run->sampling.draws = state.draws;
  run->skipped = state.skipped, run->seconds_before = state.seconds;
  if (!o->new_schedule) run->planned = state.planned;
  if (!o->forget_best) run->patience = state.patience;
  run->outliers.count = state.outliers.count;
  run->events.resume_at = state.metrics_bytes;
  resumed->told = state.told, resumed->whole = state.whole;
  resumed->is_best = is_best && !o->forget_best, resumed->moments = state.moments;
  return true;
}

uint64_t run_state_key(const struct Run *run, const struct Resumed *resumed) { return run->options.seed + resumed->step; }

void run_restore(struct Run *run, const struct Resumed *resumed) {
  const struct Gpt2 *model = &run->model;
  checkpoint_read(resumed->model, resumed->model_path, &run->checkpoint, model->params.first);
  ranks_broadcast(&run->team.ranks, model->params.first, model->count * sizeof(float));
  state_read(resumed->state, resumed->state_path, resumed->moments, &run->outliers, model,
             run_state_key(run, resumed), &run->team.ranks);
  if (run->options.forget_best) run->checkpoint.has_val_loss = false;
  if (saver_finish(&run->saver, resumed->is_best)) return;
  /* The best weights came later: of those before them, these are left. */
  run->best_val_loss = run->checkpoint.has_val_loss ? run->val_loss : INFINITY;
  if (run->checkpoint.has_val_loss) saver_finish(&run->saver, true);
}
