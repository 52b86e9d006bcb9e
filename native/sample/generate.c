/* llmc-native generate: requests on stdin, a line each; what is written for them on stdout, a JSON object a
 * line. docs/reference/generate.md describes both.
 *
 * It ends at the end of its input, when everything asked for is written, or at once when nobody listens. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/input.h"
#include "base/interrupts.h"
#include "files/checkpoint.h"
#include "commands.h"
#include "files/line.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/util.h"
#include "sample/batch.h"

enum { MOST_WAITING = 1024, LINE_BYTES = 1 << 20, OUTPUT_BYTES = 1 << 16, EVENT_BYTES = 2048, MESSAGE_BYTES = 256 };
enum { CALM_MS = 100 };

struct Options {
  const char *model, *unused;
  size_t slots, positions, threads;
  enum Dtype dtype;
};

struct Generate {
  struct Options options;
  struct Batch batch;
  struct Request *waiting;      // (MOST_WAITING + 1) a ring, in order of arrival, and one place to read into
  int *prompts;                 // (MOST_WAITING + 1, positions)
  size_t first, count;
  char *input;                  // (LINE_BYTES + 1) what has come of the lines that are not done
  size_t held;
  bool skipping, at_end;        // the rest of a line that is too long; no more input comes
  bool settling;                // nothing was asked for a while
  struct Line output;           // events of this turn
};

static struct Options read_options(int argc, char **argv) {
  struct Options o = {.slots = 1, .threads = 1};
  const struct Arg args[] = {
      {"model", ARG_TEXT, &o.model, 0, 0, "checkpoint to generate with"},
      {"slots", ARG_COUNT, &o.slots, 1, 1024, "texts generated at the same time; others wait"},
      {"positions", ARG_COUNT, &o.positions, 0, MOST_CONTEXT, "context length in tokens; 0: the model's"},
      {"dtype", ARG_CHOICE, &(struct Choice){&o.dtype, WEIGHT_NAMES}, 0, 0,
       "number type of the weights: fp32, bf16 or int8"},
      {"unused-ids", ARG_TEXT, &o.unused, 0, 0, "ids that are never drawn, as ranges: 500-511,600-600"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "number of threads"},
  };
  args_parse("generate", args, sizeof args / sizeof *args, argc, argv);
  if (o.model == NULL) die(EXIT_USAGE, "generate needs --model FILE");
  return o;
}

/* ---- events ------------------------------------------------------------------------------------- */

static void begin_event(struct Generate *g) {
  if (g->output.length + EVENT_BYTES > OUTPUT_BYTES) line_say(&g->output);
}

static void tell_ready(struct Generate *g, const struct Arena *arena) {
  const struct Decoder *d = &g->batch.decoder;
  line_add(&g->output, "{\"event\":\"ready\",\"slots\":%zu,\"positions\":%zu,\"vocab_size\":%zu,\"dtype\":\"%s\",\"isa\":\"%s\","
      "\"threads\":%d,\"memory_bytes\":%zu}\n", d->slots, d->positions, d->config.V,
      dtype_name(g->options.dtype), d->kernels->name, pool_threads(d->workers.pool), arena_footprint(arena));
  line_say(&g->output);
}

static void tell(struct Generate *g, const char *event, const struct Text *text, const struct Told *told) {
  begin_event(g);
  line_add(&g->output, "{\"event\":\"%s\",\"id\":\"%s\",\"token\":%d,\"logprob\":%.8g", event, text->request.id, told->token,
      told->logprob);
  if (text->written == 1) line_add(&g->output, ",\"cached\":%zu", text->cached);
  for (size_t i = 0; i < told->tops; i++) {
    line_add(&g->output, "%s[%d,%.8g]", i == 0 ? ",\"top\":[" : ",", told->top[i].token,
        (double)told->top[i].number - told->log_sum);
  }
  line_add(&g->output, told->tops > 0 ? "]}\n" : "}\n");
}

static void tell_prompt(void *context, const struct Text *text, const struct Told *told) {
  tell(context, "prompt", text, told);
}

static void tell_token(void *context, const struct Text *text, const struct Told *told) {
  tell(context, "token", text, told);
}

static void tell_end(void *context, const struct Text *text, enum TextEnd ending) {
  static const char *const reasons[] = {"length", "stop", "cancelled", "error"};
  struct Generate *g = context;
  begin_event(g);
  line_add(&g->output, "{\"event\":\"end\",\"id\":\"%s\",\"reason\":\"%s\",\"prompt_tokens\":%zu,\"tokens\":%zu,"
      "\"prompt_ms\":%.3f,\"ms\":%.3f", text->request.id, reasons[ending], text->request.prompt_tokens, text->written,
      text->prompt_ms, 1e3 * (clock_seconds() - text->started));
  if (ending == ENDED_ERROR) {
    line_add(&g->output, ",\"message\":\"the model computes no finite logits: its weights are NaN, infinite or far too large\"");
  }
  line_add(&g->output, "}\n");
}

/* The end of what was never begun; an id's letters and messages need no escapes. */
static void tell_unwritten(struct Generate *g, const struct Request *request, const char *reason,
                           const char *message) {
  begin_event(g);
  line_add(&g->output, "{\"event\":\"end\",\"id\":\"%s\",\"reason\":\"%s\",\"prompt_tokens\":%zu,\"tokens\":0,\"prompt_ms\":0,"
      "\"ms\":0", request->id, reason, request->prompt_tokens);
  if (message != NULL) line_add(&g->output, ",\"message\":\"%s\"", message);
  line_add(&g->output, "}\n");
}

/* ---- requests ----------------------------------------------------------------------------------- */

static struct Request *waiting_at(struct Generate *g, size_t i) {
  return &g->waiting[(g->first + i) % (MOST_WAITING + 1)];
}

/* Of a request that waits, its place among those; their number where there is none. */
static size_t find_waiting(struct Generate *g, const char *id) {
  size_t i = 0;
  while (i < g->count && strcmp(waiting_at(g, i)->id, id) != 0) i++;
  return i;
}

static void cancel(struct Generate *g, const char *id) {
  struct Text *text = batch_find(&g->batch, id);
  if (text != NULL) {
    batch_cancel(&g->batch, text);
    return;
  }
  const size_t at = find_waiting(g, id);
  if (at == g->count) return;  // it has just ended, most likely
  tell_unwritten(g, waiting_at(g, at), "cancelled", NULL);
  /* Those behind it move up; it goes behind them all, so that every place keeps its room for a prompt. */
  for (size_t i = at; i < g->count; i++) {
    const struct Request moved = *waiting_at(g, i);
    *waiting_at(g, i) = *waiting_at(g, i + 1);
    *waiting_at(g, i + 1) = moved;
  }
  g->count--;
}

static void take_line(struct Generate *g, const char *line, size_t length) {
  if (length > 0 && line[length - 1] == '\r') length--;  // as programs on Windows end lines
  char message[MESSAGE_BYTES] = "";
  struct Request *request = waiting_at(g, g->count);  // behind the last
  switch (request_parse(request, line, length, g->batch.decoder.config.V, g->options.positions, message)) {
    case ASKED_CANCEL: cancel(g, request->id); return;
    case ASKED_NONSENSE: tell_unwritten(g, request, "error", message); return;
    case ASKED_REQUEST: break;
  }
  if (batch_find(&g->batch, request->id) != NULL || find_waiting(g, request->id) < g->count) {
    snprintf(message, sizeof message, "%s is still being written: use another id", request->id);
    request->id[0] = '\0';  // the end of that id would be taken for the end of the other
    tell_unwritten(g, request, "error", message);
  } else if (g->count == MOST_WAITING) {
    snprintf(message, sizeof message, "%d requests are waiting already; ask again when some have ended", MOST_WAITING);
    tell_unwritten(g, request, "error", message);
  } else {
    g->count++;
  }
}

static void too_long(struct Generate *g) {
  const struct Request none = {.id = ""};
  char message[MESSAGE_BYTES];
  snprintf(message, sizeof message, "a line is longer than %d bytes", LINE_BYTES);
  tell_unwritten(g, &none, "error", message);
}

/* Takes the whole lines of the input and keeps the rest. */
static void take_lines(struct Generate *g) {
  char *line = g->input, *end = g->input + g->held;
  for (char *newline; (newline = memchr(line, '\n', (size_t)(end - line))) != NULL; line = newline + 1) {
    if (!g->skipping) take_line(g, line, (size_t)(newline - line));
    g->skipping = false;
  }
  g->held = (size_t)(end - line);
  memmove(g->input, line, g->held);
  if (g->held == LINE_BYTES) {
    if (!g->skipping) too_long(g);
    g->skipping = true;
    g->held = 0;
  }
  if (g->at_end && g->held > 0 && !g->skipping) take_line(g, g->input, g->held);
}

/* Takes what input there is; with nothing to write, waits for it, and after a while puts the cache in order. */
static void listen(struct Generate *g) {
  const bool idle = g->batch.active == 0 && g->count == 0, unsettled = idle && batch_unsettled(&g->batch);
  if (g->at_end) return;
  const bool ready = input_wait(!idle || (unsettled && g->settling) ? 0 : unsettled ? CALM_MS : -1);
  g->settling = idle && !ready && batch_settle(&g->batch);
  if (!ready) return;  // or a signal came: the next turn asks again
  const ptrdiff_t got = input_read(g->input + g->held, LINE_BYTES - g->held);
  if (got < 0 && errno == EAGAIN) return;
  if (got < 0) die(EXIT_BAD_DATA, "cannot read stdin: %s", strerror(errno));
  g->held += (size_t)got;
  g->at_end = got == 0;
  take_lines(g);
}

static void loop(struct Generate *g) {
  while (!g->at_end || g->count > 0 || g->batch.active > 0) {
    listen(g);
    for (; g->count > 0 && g->batch.active < g->options.slots; g->count--) {
      batch_begin(&g->batch, waiting_at(g, 0));
      g->first = (g->first + 1) % (MOST_WAITING + 1);
    }
    batch_turn(&g->batch);
    if (g->output.length > 0) line_say(&g->output);
  }
}

/* ---- memory ------------------------------------------------------------------------------------- */

static void layout(struct Generate *g, struct Arena *arena) {
  const size_t positions = g->options.positions;
  decoder_layout(&g->batch.decoder, arena, g->options.slots, positions);
  batch_layout(&g->batch, arena);
  g->waiting = arena_alloc(arena, MOST_WAITING + 1, sizeof *g->waiting);
  g->prompts = arena_alloc(arena, size_product(MOST_WAITING + 1, positions), sizeof *g->prompts);
  g->input = arena_alloc(arena, LINE_BYTES + 1, 1);
  g->output = (struct Line){arena_alloc(arena, OUTPUT_BYTES, 1), OUTPUT_BYTES, 0};
}

int command_generate(int argc, char **argv) {
  struct Generate g = {.options = read_options(argc, argv)};
  struct Options *o = &g.options;
  struct Checkpoint checkpoint;
  const int file = checkpoint_open(o->model, &checkpoint);
  if (o->positions > checkpoint.config.maxT) {
    die(EXIT_USAGE, "--positions %zu is more than the %zu of %s; use at most that", o->positions,
        checkpoint.config.maxT, o->model);
  }
  if (o->positions == 0) o->positions = checkpoint.config.maxT;
  const char *fault = sampler_unused_fault(o->unused, checkpoint.config.V);
  if (fault != NULL) die(EXIT_USAGE, "--unused-ids takes ranges of ids below %zu, not '%s'", checkpoint.config.V, fault);
  struct Decoder *decoder = &g.batch.decoder;
  *decoder = (struct Decoder){.config = checkpoint.config, .kernels = kernels_best(), .dtype = o->dtype};
  decoder->workers.pool = pool_create((int)o->threads);
  g.batch.unused = o->unused;
  g.batch.reuses = true;
  g.batch.listener = (struct Listener){&g, tell_prompt, tell_token, tell_end};

  struct Arena arena = {0};
  layout(&g, &arena);
  memory_take(&arena, "use fewer --slots or --positions, or a smaller model", "%zu texts of %zu tokens with %s need",
              o->slots, o->positions, o->model);
  layout(&g, &arena);
  decoder_load(decoder, file, o->model, &checkpoint);
  for (size_t i = 0; i <= MOST_WAITING; i++) g.waiting[i].prompt = g.prompts + i * o->positions;
  interrupts_ignore();  // a terminal's Ctrl-C is for the parent process, which can cancel requests
  tell_ready(&g, &arena);
  loop(&g);
  pool_destroy(decoder->workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
