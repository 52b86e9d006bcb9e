/* llmc-native train: its flags, and what a run does when. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/args.h"
#include "base/cores.h"
#include "commands.h"
#include "base/interrupts.h"
#include "base/memory.h"
#include "kernels/peak.h"
#include "train/plan.h"
#include "base/pool.h"
#include "train/run.h"
#include "train/shares.h"
#include "train/validation.h"
#include "base/util.h"

static struct RunOptions read_options(int argc, char **argv) {
  struct RunOptions o = {
      .events = "text", .limits = {.steps = 40}, .batch_size = 4, .seq_len = 64, .threads = 1, .seed = 1337,
      .val_every = 10, .val_tokens = 20480, .sample_every = 20, .sample_tokens = 64, .keep = 1, .eot = INT32_MAX,
      .sample_stop = INT32_MAX,
      .lr = 1e-4, .schedule = {.decay = 0.2}, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .shuffle = true,
      .resume_from = MOST_STEPS, .save_every = {.seconds = 600},
  };
  /* A resumed run may have what older versions allowed. */
  const double most = 1e9;
  const bool older = args_given("resume", argc, argv);
  const struct Arg args[] = {
      {"data", ARG_LIST, &o.data, 0, 0, "training tokens: a file, or a pattern of several; given again: a text to mix in"},
      {"weights", ARG_TEXT, &o.weights, 0, 0, "whole numbers, one for each --data: how many rows of each, such as 10,3"},
      {"val-data", ARG_LIST, &o.val_data, 0, 0, "validation tokens, likewise"},
      {"val-weights", ARG_TEXT, &o.val_weights, 0, 0, "whole numbers, one for each --val-data: how much each loss counts"},
      {"model", ARG_TEXT, &o.model, 0, 0, "checkpoint to start from"},
      {"out", ARG_TEXT, &o.out, 0, 0, "folder for model.bin and metrics.jsonl"},
      {"events", ARG_TEXT, &o.events, 0, 0, "format of stdout: text or json"},
      {"steps", ARG_COUNT, &o.limits.steps, 0, MOST_STEPS,
       "updates to make; unlimited if a limit below is given instead"},
      {"max-time", ARG_TIME, &o.limits.seconds, 0, most,
       "training time, resumed runs included, such as 1h30m; a wsd schedule ends with it; 0: unlimited"},
      {"max-tokens", ARG_COUNT, &o.limits.tokens, 0, 0x1p53, "tokens to train on; 0: unlimited"},
      {"epochs", ARG_COUNT, &o.limits.epochs, 0, most, "passes over the training tokens; 0: unlimited"},
      {"patience", ARG_COUNT, &o.limits.patience, 0, most,
       "stop after this many validations without improvement; 0: never"},
      {"min-delta", ARG_NUMBER, &o.limits.min_delta, 0, older ? most : 100, "minimum improvement that counts as a new best"},
      {"batch-size", ARG_COUNT, &o.batch_size, 1, 65536, "B, rows in a batch"},
      {"seq-len", ARG_COUNT, &o.seq_len, 1, MOST_CONTEXT, "T, tokens in a row"},
      {"total-batch-size", ARG_COUNT, &o.total_batch_size, 0, 1e12, "tokens in an update; 0: one batch of B rows"},
      {"optimizer", ARG_CHOICE, &(struct Choice){&o.optimizer, OPTIMIZER_NAMES}, 0, 0,
       "of the blocks' matrices: adamw or muon; all else has adamw"},
      {"lr", ARG_NUMBER, &o.lr, 0, older ? most : 10, "peak learning rate"},
      {"schedule", ARG_CHOICE, &(struct Choice){&o.schedule.shape, SCHEDULE_NAMES}, 0, 0, "learning-rate schedule"},
      {"warmup", ARG_COUNT, &o.schedule.warmup, 0, most, "warmup steps of the learning rate"},
      {"lr-final", ARG_NUMBER, &o.lr_final, 0, 1, "final learning rate as a fraction of the peak"},
      {"decay", ARG_NUMBER, &o.schedule.decay, 0, 1, "fraction of the steps in which the wsd schedule decays"},
      {"beta1", ARG_NUMBER, &o.beta1, 0, ARG_BELOW_1, "AdamW's decay rate of the first moment"},
      {"beta2", ARG_NUMBER, &o.beta2, 0, ARG_BELOW_1, "AdamW's decay rate of the second moment"},
      {"eps", ARG_NUMBER, &o.eps, older ? 0 : 1e-20, older ? most : 1, "AdamW's epsilon"},
      {"weight-decay", ARG_NUMBER, &o.weight_decay, 0, older ? most : 10, "weight decay of the matrices"},
      {"dropout", ARG_NUMBER, &o.dropout, 0, ARG_BELOW_1, "fraction of activations dropped at random in training"},
      {"grad-clip", ARG_NUMBER, &o.grad_clip, 0, most, "clip the gradient to this global norm; 0: never"},
      {"skip-loss-z", ARG_NUMBER, &o.skip_loss_z, 0, older ? most : OUTLIERS_MOST_Z,
       "skip updates whose loss z-score exceeds this; 0: never"},
      {"skip-grad-z", ARG_NUMBER, &o.skip_grad_z, 0, older ? most : OUTLIERS_MOST_Z,
       "skip updates whose gradient norm z-score exceeds this; 0: never"},
      {"shares", ARG_COUNT, &o.shares, 0, RANKS_MOST,
       "shares in which an update's gradient is added up, which decide its rounding; 0: one for each rank, or those that "
       "the resumed run had"},
      {"threads", ARG_COUNT, &o.threads, 0, POOL_MAX_THREADS,
       "number of threads; 0: one for each core that this process may use"},
      {"prefer-isa", ARG_TEXT, &o.prefer_isa, 0, 0,
       "instruction set to take if it is among those of which the fastest is measured"},
      {"fewer-threads", ARG_SWITCH, &o.fewer_threads, 0, 1, "1: fewer threads where the first steps are no slower with them"},
      {"dtype", ARG_CHOICE, &(struct Choice){&o.dtype, DTYPE_NAMES}, 0, 0,
       "number type that linear layers multiply: fp32 or bf16"},
      {"exchange-dtype", ARG_CHOICE, &(struct Choice){&o.exchange_dtype, DTYPE_NAMES}, 0, 0,
       "number type of the shares that are added up: fp32, or bf16, half the bytes between ranks"},
      {"recompute", ARG_SWITCH, &o.recompute, 0, 1, "1: recompute activations in the backward pass, to save memory"},
      {"optimizer-state", ARG_CHOICE, &(struct Choice){&o.optimizer_state, MOMENTS_NAMES}, 0, 0,
       "number type of the optimizer's moments: fp32, bf16 or 8bit"},
      {"seed", ARG_COUNT, &o.seed, 0, 0x1p53, "random seed"},
      {"shuffle", ARG_SWITCH, &o.shuffle, 0, 1, "1: shuffle the windows of the training tokens; 0: in order"},
      {"windows", ARG_CHOICE, &(struct Choice){&o.windows, WINDOWS_NAMES}, 0, 0,
       "packed: windows of the training tokens follow each other; aligned: they begin where documents do"},
      {"val-every", ARG_COUNT, &o.val_every, 0, most, "steps between validations; 0: never"},
      {"val-tokens", ARG_COUNT, &o.val_tokens, 0, 0x1p53, "validation tokens, spread over all there are; 0: all"},
      {"val-batches", ARG_COUNT, &o.val_batches, 0, most,
       "validate on the first batches instead, at most so many; 0: --val-tokens"},
      {"sample-every", ARG_COUNT, &o.sample_every, 0, most, "steps between samples; 0: never"},
      {"sample-tokens", ARG_COUNT, &o.sample_tokens, 1, 1024, "tokens in a sample"},
      {"eot", ARG_COUNT, &o.eot, 0, INT32_MAX,
       "end-of-text token, with which samples begin; 2147483647: the vocabulary's last"},
      {"sample-prompt", ARG_TEXT, &o.sample_prompt, 0, 0,
       "token ids that samples follow, separated by commas; default: end-of-text"},
      {"sample-stop", ARG_COUNT, &o.sample_stop, 0, INT32_MAX, "token that ends a sample; 2147483647: none"},
      {"unused-ids", ARG_TEXT, &o.unused, 0, 0, "ids that samples never hold, as ranges: 500-511,600-600"},
      {"save-every", ARG_EVERY, &o.save_every, 0, most,
       "steps between checkpoints, or at most so much time, such as 10m; 0: only at the end"},
      {"keep", ARG_COUNT, &o.keep, 1, SAVER_MOST_KEPT, "number of checkpoints to keep"},
      {"resume", ARG_SWITCH, &o.resume, 0, 1, "1: resume from the newest checkpoint in --out"},
      {"resume-from", ARG_COUNT, &o.resume_from, 0, MOST_STEPS,
       "resume from the checkpoint of this step; 1000000000: the newest"},
      {"new-schedule", ARG_SWITCH, &o.new_schedule, 0, 1, "1: a resumed run's schedule is not the one it had, and is checked"},
      {"forget-best", ARG_SWITCH, &o.forget_best, 0, 1, "1: losses of other validation tokens, before a resume, do not count"},
      {"dry-run", ARG_SWITCH, &o.dry_run, 0, 1, "1: print the memory and time that the run needs, and write nothing"},
  };
  args_parse("train", args, sizeof args / sizeof *args, argc, argv);
  const size_t BT = size_product(o.batch_size, o.seq_len);
  if (o.total_batch_size % BT != 0) {
    die(EXIT_USAGE, "--total-batch-size %zu is not a multiple of %zu x %zu tokens; use %zu or another multiple",
        o.total_batch_size, o.batch_size, o.seq_len, size_max(o.total_batch_size / BT, 1) * BT);
  }
  o.schedule.lr = o.lr, o.schedule.least = o.lr_final * o.lr;
  const bool bounded = o.limits.seconds > 0 || o.limits.tokens > 0 || o.limits.epochs > 0;
  if (bounded && !args_given("steps", argc, argv)) o.limits.steps = MOST_STEPS;
  if (o.val_every == 0) o.val_data.count = 0;
  if (o.limits.patience > 0 && o.val_data.count == 0) {
    die(EXIT_USAGE, "--patience counts validations, and there are none; give --val-data and --val-every");
  }
  if (o.resume && o.out == NULL) die(EXIT_USAGE, "--resume 1 needs the run's folder: --out FOLDER");
  if (o.resume && o.dry_run) die(EXIT_USAGE, "--resume and --dry-run exclude each other; leave one out");
  if (o.dry_run) o.planned_out = o.out, o.out = NULL;
  if (o.data.count == 0 || o.model == NULL) die(EXIT_USAGE, "train needs --data FILE and --model FILE");
  if (strcmp(o.events, "text") != 0 && strcmp(o.events, "json") != 0) {
    die(EXIT_USAGE, "--events takes text or json, not '%s'", o.events);
  }
  return o;
}

static bool due(size_t step, size_t every) { return every > 0 && step % every == 0; }

static int end_run(struct Run *run, size_t step, bool told, enum EndReason end) {
  const bool saved = saving_last(run, step, told), written = run_end(run, step, end);
  if (!saved) saving_die(run, step);
  if (!written) {
    die(EXIT_BAD_DATA, "cannot write the end of %s/metrics.jsonl: %s; step %zu is saved", run->options.out,
        strerror(errno), step);
  }
  return interrupted() ? EXIT_INTERRUPTED : EXIT_OK;
}

static int loop(struct Run *run, const struct Resumed *resumed) {
  const struct RunOptions *o = &run->options;
  for (size_t step = resumed->step;; step++) {
    run_plan(run, step);
    enum EndReason end = run_ends(run, step);
    bool told = resumed->told && step == resumed->step;
    /* Asked to stop, it saves at once: whoever asked may not wait for a validation. */
    if (!told && !run_asked_to_stop(run)) {
      const bool validates = o->val_data.count > 0 && (end != GOES_ON || due(step, o->val_every));
      told = run_evaluate(run, step, validates, step > 0 && due(step, o->sample_every));
      if (told && validates && end == GOES_ON) end = run_ends(run, step);
    }
    if (!told || (end == GOES_ON && run_asked_to_stop(run))) end = END_INTERRUPTED;
    /* Whoever saves on the way, or may end after the best, has the best too; to others it would cost too much. */
    const bool keeps_best = o->save_every.steps > 0 || o->limits.patience > 0;
    if (end != GOES_ON) return end_run(run, step, told, end);
    const bool is_due = saving_due(run, step);
    if (is_due || (step > 0 && keeps_best && run_is_best(run))) saving_save(run, step, told, keeps_best);
    const struct StepMetrics metrics = run_step(run, step);
    events_step(&run->events, &metrics);
    saving_report(run, step + 1);
  }
}

/* Refuses what the options ask of a model of another shape. */
static void check_options(const struct RunOptions *o, const struct Config *config) {
  if (o->seq_len > config->maxT) {
    die(EXIT_USAGE, "--seq-len %zu is more than the %zu positions of %s; use at most that", o->seq_len,
        config->maxT, o->model);
  }
  const char *fault = sampler_unused_fault(o->unused, config->V);
  if (fault != NULL) die(EXIT_USAGE, "--unused-ids takes ranges of ids below %zu, not '%s'", config->V, fault);
  if (o->eot != INT32_MAX && o->eot >= config->V) {
    die(EXIT_USAGE, "--eot %zu is not below the %zu tokens of %s", o->eot, config->V, o->model);
  }
  if (o->sample_stop != INT32_MAX && o->sample_stop >= config->V) {
    die(EXIT_USAGE, "--sample-stop %zu is not below the %zu tokens of %s", o->sample_stop, config->V, o->model);
  }
}

static void open_data(struct Run *run, bool whole) {
  const struct RunOptions *o = &run->options;
  const size_t V = run->model.config.V;
  mixture_open(&run->train, &o->data, o->weights, V);
  run->train.B = o->batch_size, run->train.T = o->seq_len;
  run->train.whole = whole;
  run->train.shuffle = o->shuffle;
  run->train.seed = o->seed;
  run->train.aligned = o->windows == WINDOWS_ALIGNED;
  run->train.eot = (uint32_t)(o->eot < INT32_MAX ? o->eot : V - 1);
  mixture_check_rows(&run->train);
  mixture_cut(&run->train);
  if (o->val_data.count > 0) {
    mixture_open(&run->val, &o->val_data, o->val_weights, V);
    validation_choose(run);
  }
}

/* The kernels, the threads and all that the layout asks for. */
static void set_model(struct Run *run) {
  const struct RunOptions *o = &run->options;
  struct Gpt2 *model = &run->model;
  team_call(&run->team);
  run->own_kernels = kernels_choose(o->dtype, o->prefer_isa);
  model->kernels = kernels_among(run->team.tables, run->own_kernels);
  model->dtype = o->dtype;
  model->recompute = o->recompute;
  model->dropout = (struct DropoutState){.rate = o->dropout, .seed = o->seed};
  model->update_in_backward = !run_needs_gradients(o);
  model->optimizer = o->optimizer;
  model->moments.type = o->optimizer_state;
  model->workers.pool = pool_create((int)(o->threads > 0 ? o->threads : run->team.threads));
  model->workers.dtype = o->dtype;
  run->thread_trial.settled = !o->fewer_threads;
}

/* Tells the other ranks how the model is made. */
static void tell_plan(struct Run *run, bool goes_on, const struct Resumed *resumed) {
  const struct RunOptions *o = &run->options;
  const struct Gpt2 *model = &run->model;
  struct TeamPlan plan = {
      .config = model->config, .B = o->batch_size, .T = o->seq_len, .eval_B = model->eval.B, .eval_T = model->eval.T,
      .shares = o->shares, .parts = o->parts, .threads = o->threads, .dtype = o->dtype, .optimizer = o->optimizer,
      .exchange_dtype = o->exchange_dtype, .moments = o->optimizer_state, .stored = resumed->moments, .recompute = o->recompute,
      .fewer_threads = o->fewer_threads, .goes_on = goes_on, .dropout = o->dropout, .seed = o->seed,
      .key = run_state_key(run, resumed)};
  snprintf(plan.isa, sizeof plan.isa, "%s", model->kernels->name);
  team_plan(&run->team, &plan);
}

/* Tells what the run will take, refuses it where that is not there, and takes it. */
static void take_memory(struct Run *run, struct Arena *arena, const struct Resumed *resumed) {
  const struct RunOptions *o = &run->options;
  run_layout(run, arena);
  const size_t available = memory_available();
  const struct Beginning at = {.step = resumed->step, .steps = run->steps, .seconds = run->seconds_before,
                               .lr = schedule_lr(&o->schedule, resumed->step),
                               .peak_flops = peak_measure(run->model.kernels, &run->model.workers).best};
  team_gather_members(&run->team, &run->model, arena_footprint(arena), available);
  if (!o->dry_run) interrupts_catch();  // before anybody hears of the run, and could want it to stop
  events_start(&run->events, &run->model, arena, available, plan_recompute_saves(run), &at, &run->team);
  plan_check(run, arena_footprint(arena), available);
  plan_check_disk(run);
  if (!o->resume) saver_open(&run->saver, o->out, o->keep, &run->team);
  if (!o->resume && run->saver.count > 0) {
    die(EXIT_USAGE, "%s holds a run already; go on with it by --resume 1, or choose another --out", o->out);
  }
  stack_touch();
  arena_take(arena);
  run_layout(run, arena);
  gpt2_first_touch(&run->model, arena);
}

/* What a person may not expect of the ranks. */
static void tell_ranks(struct Run *run) {
  const struct Ranks *ranks = &run->team.ranks;
  const char *isa = run->model.kernels->name, *own = run->own_kernels->name;
  if (ranks->count == 1) return;
  if (strcmp(isa, own) != 0) {
    events_note(&run->events, "not every machine can run %s: all ranks compute with %s, whose rounding differs", own, isa);
  }
  if (cores_allowed() == 1 && cores_there() >= 2 * ranks->here) {
    events_note(&run->events, "a rank may use 1 of %d cores: mpirun bound it; mpirun --bind-to none lets it use all",
                cores_there());
  }
}

/* Of a new run. */
static void read_weights(struct Run *run, int file) {
  const struct Gpt2 *model = &run->model;
  checkpoint_read(file, run->options.model, &run->checkpoint, model->params.first);
  ranks_broadcast(&run->team.ranks, model->params.first, model->count * sizeof(float));
}

static void open_metrics(struct Run *run) {
  const struct RunOptions *o = &run->options;
  if (o->out != NULL) events_open_metrics(&run->events, o->out);
  run->saver.metrics = run->events.metrics;
  if (run->saver.unlocked != 0) {
    events_note(&run->events, "%s cannot be locked (%s): see to it that no other llmc trains in it", o->out,
                strerror(run->saver.unlocked));
  }
}

int command_train(int argc, char **argv) {
  static struct Run run;  // static: too large to be anyone's stack frame
  struct Arena arena = {0};
  memset(&run, 0, sizeof run);  // all of its pages, now, and none when it first saves
  ranks_open(&run.team.ranks);
  if (run.team.ranks.rank > 0) return team_work(&run.team);
  run.options = read_options(argc, argv);
  struct RunOptions *o = &run.options;

  run.best_val_loss = run.patience.best = INFINITY;
  run.sampling = (struct Sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = o->seed};
  run.events = (struct Events){.json = strcmp(o->events, "json") == 0, .metrics = -1};
  struct Resumed resumed = {0};
  if (o->resume) saver_open(&run.saver, o->out, o->keep, &run.team);
  const bool goes_on = o->resume && run_find(&run, &resumed);
  if (!goes_on) shares_settle(&run, NULL);
  const int file = goes_on ? resumed.model : checkpoint_open(o->model, &run.checkpoint);
  if (!goes_on) run.checkpoint.has_val_loss = false;  // the starting model's, on other data perhaps
  const struct Config *config = &run.checkpoint.config;
  check_options(o, config);
  run.batch.unused = o->unused;
  run.prompt_count = prompt_parse("sample-prompt", o->sample_prompt, config->V, 0, NULL);
  run.model.config = *config;
  open_data(&run, !goes_on || resumed.whole);
  set_model(&run);
  run_count_steps(&run);

  tell_plan(&run, goes_on, &resumed);
  take_memory(&run, &arena, &resumed);
  if (goes_on) run_restore(&run, &resumed);
  else read_weights(&run, file);
  open_metrics(&run);
  if (goes_on) shares_tell(&run, resumed.step);
  tell_ranks(&run);

  run.began = clock_seconds();
  run.first_step = resumed.step;
  saving_begin(&run);
  int code = EXIT_OK;
  if (o->dry_run) plan_dry_run(&run);
  else code = loop(&run, &resumed);
  team_end(&run.team);
  saver_close(&run.saver);
  mixture_close(&run.train);
  if (o->val_data.count > 0) mixture_close(&run.val);
  pool_destroy(run.model.workers.pool);
  arena_free(&arena);
  return code;
}
