#include "train/events.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/disk.h"
#include "base/interrupts.h"
#include "files/file.h"
#include "files/line.h"
#include "base/pool.h"
#include "base/util.h"

enum { PATIENCE_MS = 10000, LINE_BYTES = 1 << 14 };

/* A reader that has left or does not read, a terminal that has closed and a full disk do not end the training. */
static void say(struct Events *events, const struct Line *line) {
  if (events->unheard || file_write_within(DISK_STDOUT, line->text, line->length, PATIENCE_MS)) {
    return;
  }
  events->unheard = true;
  fprintf(stderr, "cannot write to stdout: %s; training goes on%s\n", strerror(errno),
          events->metrics >= 0 ? ", and metrics.jsonl has its numbers" : "");
}

void events_note(struct Events *events, const char *format, ...) {
  char text[2560];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (!events->json) {
    fprintf(stderr, "%s\n", text);
    return;
  }
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, "{\"event\":\"note\",\"text\":");
  line_add_text(&line, text);
  line_add(&line, "}\n");
  say(events, &line);
}

bool events_stop_wanted(const struct Events *events) {
  return interrupted() || events->lost || (events->unheard && orphaned());
}

static bool write_line(const struct Events *events, const struct Line *line) {
  const int64_t at = disk_at(events->metrics);
  if (file_write(events->metrics, line->text, line->length)) return true;
  const int reason = errno;
  disk_cut(events->metrics, at);
  errno = reason;
  return false;
}

/* A full disk does not end the training. */
static void record(struct Events *events, const struct Line *line) {
  if (events->metrics < 0 || events->lost) return;
  while (!write_line(events, line)) {
    events->reason = errno;
    if (errno == EFBIG || events_stop_wanted(events)) {  // a limit of the process does not go away
      events->lost = true;
      return;
    }
    if (!events->waiting) {
      events_note(events, "cannot write metrics.jsonl: %s; training waits until it can: %s. Ctrl-C or SIGTERM ends "
                  "the run", strerror(events->reason), file_remedy(events->reason));
    }
    events->waiting = true;
    for (int i = 0; i < 10 && !events_stop_wanted(events); i++) clock_wait(100);
  }
  if (events->waiting) events_note(events, "training goes on");
  events->waiting = false;
}

void events_open_metrics(struct Events *events, const char *folder) {
  char path[1100];
  snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
  events->metrics = disk_open_to_change(path);
  if (events->metrics < 0) die(EXIT_BAD_DATA, "cannot write %s: %s; %s", path, strerror(errno), file_remedy(errno));
  const int64_t kept = (int64_t)events->resume_at;
  if (disk_size(events->metrics) < kept) {
    die(EXIT_BAD_DATA, "%s was shortened: the run had told %zu bytes by its checkpoint; put it back, or start a "
        "new run from the weights", path, events->resume_at);
  }
  if (!disk_cut(events->metrics, kept)) {
    die(EXIT_BAD_DATA, "cannot cut %s to where the run was: %s; %s", path, strerror(errno), file_remedy(errno));
  }
}

size_t events_recorded(const struct Events *events) {
  const int64_t at = events->metrics >= 0 ? disk_at(events->metrics) : 0;
  return at > 0 ? (size_t)at : 0;
}

static const char *truth(bool x) { return x ? "true" : "false"; }

/* As JSON: null where only something else ends the run. */
static const char *known_steps(char text[24], size_t steps) {
  snprintf(text, 24, "%zu", steps);
  return steps < MOST_STEPS ? text : "null";
}

/* The ranks of a start, as JSON has them, or in lines. */
static void add_ranks(struct Events *events, struct Line *line, const struct Team *team) {
  const bool json = events->json;
  if (json) {
    line_add(line, ",\"update_tokens\":%zu,\"shares\":%zu", team->parts * team->B * team->T, team->shares);
  } else if (team->shares > 1) {
    line_add(line, "shares of an update: %zu\n", team->shares);
  }
  if (team->ranks.count == 1) return;
  line_add(line, json ? ",\"mpi\":" : "ranks: %d, by %s\n", team->ranks.count, team->ranks.library);
  if (json) line_add_text(line, team->ranks.library);
  for (int r = 0; r < team->ranks.count; r++) {
    const struct Member *m = &team->members[r];
    if (line->length > line->size / 2) say(events, line), line->length = 0;  // the rest follows
    if (!json) {
      line_add(line, "rank %d on %s: isa: %s, threads: %zu, memory: %.1f MB\n", r, m->machine, m->isa, m->threads,
          (double)m->memory / 1e6);
      continue;
    }
    line_add(line, r == 0 ? ",\"ranks\":[{\"machine\":" : ",{\"machine\":");
    line_add_text(line, m->machine);
    line_add(line, ",\"threads\":%zu,\"isa\":\"%s\",\"memory\":%zu,\"memory_available\":", m->threads, m->isa, m->memory);
    if (m->available == SIZE_MAX) line_add(line, "null}");
    else line_add(line, "%zu}", m->available);
  }
  if (json) line_add(line, "]");
}

void events_start(struct Events *events, const struct Gpt2 *model, const struct Arena *arena, size_t available,
                  size_t recompute_saves, const struct Beginning *at, const struct Team *team) {
  const struct MemoryPlan *plan = &model->plan;
  const struct Config *config = &model->config;
  const struct Kernels *kernels = model->kernels;
  const size_t total = arena_footprint(arena), rounding = total - arena->used;
  const size_t buffers = arena->used - plan->parameters - plan->gradients - plan->optimizer -
                         plan->activations - plan->scratch;
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  /* V rather than Vp rows of wte count: the padding is not a parameter. */
  size_t parameters = model->count - (config->Vp - config->V) * config->C;
  if (events->json) {
    line_add(&line, "{\"event\":\"start\",\"parameters\":%zu,\"isa\":\"%s\",\"dtype\":\"%s\",\"multiplies_bf16\":%s,"
        "\"recompute\":%s,\"recompute_saves\":%zu,\"optimizer\":\"%s\",\"optimizer_state\":\"%s\",\"threads\":%d,"
        "\"step\":%zu,\"steps\":%s,\"lr\":%.9g,\"seconds\":%.3f,\"peak_flops\":%.4g,\"memory\":%zu,\"memory_parts\":{"
        "\"parameters\":%zu,\"gradients\":%zu,\"optimizer\":%zu,"
        "\"activations\":%zu,\"scratch\":%zu,\"buffers\":%zu,\"rounding\":%zu},\"memory_available\":",
        parameters, kernels->name, dtype_name(model->dtype), truth(kernels->multiplies_bf16),
        truth(model->recompute), recompute_saves, optimizer_name(model->optimizer), moments_name(model->moments.type),
        pool_threads(model->workers.pool), at->step, known_steps((char[24]){0}, at->steps), at->lr, at->seconds,
        at->peak_flops, total, plan->parameters, plan->gradients, plan->optimizer, plan->activations, plan->scratch,
        buffers, rounding);
    if (available == SIZE_MAX) line_add(&line, "null");
    if (available != SIZE_MAX) line_add(&line, "%zu", available);
    add_ranks(events, &line, team);
    line_add(&line, "}\n");
  } else {
    line_add(&line, "[GPT-2]\nmax_seq_len: %zu\nvocab_size: %zu\nnum_layers: %zu\nnum_heads: %zu\n"
        "channels: %zu\nnum_parameters: %zu\n", config->maxT, config->V, config->L, config->NH,
        config->C, parameters);
    line_add(&line, "memory: %.1f MB (parameters %.1f, gradients %.1f, optimizer %.1f, activations %.1f, "
        "scratch %.1f, buffers %.1f, rounding %.1f)\n", (double)total / 1e6,
        (double)plan->parameters / 1e6, (double)plan->gradients / 1e6, (double)plan->optimizer / 1e6,
        (double)plan->activations / 1e6, (double)plan->scratch / 1e6, (double)buffers / 1e6,
        (double)rounding / 1e6);
    if (available != SIZE_MAX) line_add(&line, "available: %.1f MB\n", (double)available / 1e6);
    if (at->step > 0) line_add(&line, "going on from step %zu\n", at->step);
    if (model->recompute) line_add(&line, "recompute saves: %.1f MB\n", (double)recompute_saves / 1e6);
    line_add(&line, "isa: %s, threads: %d, optimizer: %s, optimizer state: %s, dtype: %s%s\n", kernels->name,
        pool_threads(model->workers.pool), optimizer_name(model->optimizer), moments_name(model->moments.type),
        dtype_name(model->dtype),
        model->dtype == BF16 && !kernels->multiplies_bf16 ? " (multiplied as floats: this CPU has no bf16)" : "");
    add_ranks(events, &line, team);
  }
  say(events, &line);
}

static void tell_skipped(struct Events *events, const struct StepMetrics *m) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, "{\"event\":\"skipped\",\"step\":%zu,\"loss_z\":%.9g,\"grad_z\":%.9g}\n", m->step, m->scores.loss,
      m->scores.norm);
  record(events, &line);
  if (!events->json) {
    line.length = 0;
    line_add(&line, "update skipped: z-score %.2f of the loss, %.2f of the gradient's norm\n", m->scores.loss,
        m->scores.norm);
  }
  say(events, &line);
}

void events_step(struct Events *events, const struct StepMetrics *m) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, "{\"step\":%zu,\"train_loss\":%.9g,\"lr\":%.9g,\"grad_norm\":%.9g,\"step_ms\":%.3f,"
      "\"tokens_per_second\":%.1f", m->step, m->train_loss, m->lr, m->grad_norm, m->step_ms, m->tokens_per_second);
  if (m->counted > 0) line_add(&line, ",\"counted\":%zu", m->counted);
  if (m->exchange_ms > 0) line_add(&line, ",\"exchange_ms\":%.3f", m->exchange_ms);
  line_add(&line, "}\n");
  record(events, &line);
  if (!events->json) {
    line.length = 0;
    line_add(&line, "step %zu: train loss %f (took %f ms)\n", m->step, m->train_loss, m->step_ms);
  }
  say(events, &line);
  if (m->skipped) tell_skipped(events, m);
}

void events_validation(struct Events *events, size_t step, const struct ValLosses *losses) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, "{\"step\":%zu,\"val_loss\":%.9g", step, losses->all.mean);
  if (isfinite(losses->all.error)) line_add(&line, ",\"val_error\":%.3g", losses->all.error);
  for (size_t i = 0; losses->count > 1 && i < losses->count; i++) {
    line_add(&line, "%s%.9g", i == 0 ? ",\"val_parts\":[" : ",", losses->parts[i].mean);
  }
  line_add(&line, losses->count > 1 ? "]}\n" : "}\n");
  record(events, &line);
  if (!events->json) {
    line.length = 0;
    line_add(&line, "val loss %f\n", losses->all.mean);
  }
  say(events, &line);
}

void events_sample(struct Events *events, size_t step, const int *tokens, size_t count) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  if (events->json) {
    line_add(&line, "{\"event\":\"sample\",\"step\":%zu,\"tokens\":[", step);
  } else {
    line_add(&line, "generating:\n---\n");
  }
  for (size_t i = 0; i < count; i++) {
    line_add(&line, "%s%d", i == 0 ? "" : events->json ? "," : " ", tokens[i]);
  }
  line_add(&line, events->json ? "]}\n" : "\n---\n");
  say(events, &line);
}

void events_saved(struct Events *events, size_t step, const char *folder) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  if (events->json) {
    line_add(&line, "{\"event\":\"saved\",\"step\":%zu}\n", step);
  } else {
    line_add(&line, "saved step %zu in %s\n", step, folder);
  }
  say(events, &line);
}

bool events_end(struct Events *events, const struct Ending *e) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, "{\"event\":\"end\",\"reason\":\"%s\",\"step\":%zu,\"steps\":%s,\"skipped\":%zu,\"seconds\":%.3f}\n",
      END_NAMES[e->reason], e->step, known_steps((char[24]){0}, e->steps), e->skipped, e->seconds);
  const bool written = events->metrics < 0 || (write_line(events, &line) && disk_sync(events->metrics));
  const int reason = errno;
  if (!events->json) {
    line.length = 0;
    line_add(&line, "ended after %zu steps: %s\n", e->step, END_NAMES[e->reason]);
    if (e->skipped > 0) line_add(&line, "%zu of them skipped their update\n", e->skipped);
  }
  say(events, &line);
  errno = reason;
  return written;
}

void events_planned(struct Events *events, size_t step, size_t steps) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, "{\"event\":\"planned\",\"step\":%zu,\"steps\":%zu}\n", step, steps);
  record(events, &line);
  if (!events->json) {
    line.length = 0;
    line_add(&line, "planned: the learning rate decays from step %zu on, and the run ends after %zu steps\n", step, steps);
  }
  say(events, &line);
}

void events_threads(struct Events *events, int threads, int given) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  line_add(&line, events->json ? "{\"event\":\"threads\",\"threads\":%d,\"given\":%d}\n"
                          : "threads: %d of %d; more make the steps no faster\n", threads, given);
  say(events, &line);
}

void events_measured(struct Events *events, const struct Measured *m) {
  char bytes[LINE_BYTES];
  struct Line line = {bytes, sizeof bytes, 0};
  if (events->json) {
    line_add(&line, "{\"event\":\"measured\",\"steps\":%zu,\"step_ms\":%.3f,\"val_batches\":%zu,"
        "\"val_batch_ms\":%.3f,\"sample_tokens\":%zu,\"token_ms\":%.3f", m->steps, m->step_ms,
        m->val_batches, m->val_batch_ms, m->sample_tokens, m->token_ms);
    if (m->exchange_ms > 0) line_add(&line, ",\"exchange_ms\":%.3f", m->exchange_ms);
    line_add(&line, "}\n");
  } else {
    line_add(&line, "a step takes %.3f ms (median of %zu)\n", m->step_ms, m->steps);
    if (m->exchange_ms > 0) line_add(&line, "of it, messages between ranks take %.3f ms\n", m->exchange_ms);
    if (m->val_batches > 0) line_add(&line, "a validation batch takes %.3f ms\n", m->val_batch_ms);
    if (m->sample_tokens > 0) line_add(&line, "a sampled token takes %.3f ms\n", m->token_ms);
    line_add(&line, "nothing was written\n");
  }
  say(events, &line);
}
