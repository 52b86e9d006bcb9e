/* llmc-native sample: token ids on stdout, one a line, as they are made. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "base/disk.h"
#include "files/checkpoint.h"
#include "commands.h"
#include "files/file.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/util.h"
#include "sample/batch.h"

struct Options {
  const char *model, *prompt;
  size_t tokens, threads, samples, eot;
  unsigned stop;
  enum Dtype dtype;
  struct Sampling sampling;
};

enum { STOP_NEVER, STOP_EOT };

static struct Options read_options(int argc, char **argv) {
  static const char *const STOPS[] = {"never", "eot", NULL};
  struct Options o = {.tokens = 256, .threads = 1, .samples = 1, .eot = INT32_MAX};
  struct Sampling *s = &o.sampling;
  *s = (struct Sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1337};
  const struct Arg args[] = {
      {"model", ARG_TEXT, &o.model, 0, 0, "checkpoint to sample from"},
      {"prompt", ARG_TEXT, &o.prompt, 0, 0, "token ids, separated by commas; default: end-of-text"},
      {"tokens", ARG_COUNT, &o.tokens, 0, 1e9, "tokens to generate"},
      {"num-samples", ARG_COUNT, &o.samples, 1, 1024, "number of texts; text i, counted from 0, has the seed plus i"},
      {"temperature", ARG_NUMBER, &s->temperature, 0, 1e6, "sampling temperature; 0: always the most likely token"},
      {"top-k", ARG_COUNT, &s->top_k, 0, 1e9, "sample from the k most likely tokens; 0: from all"},
      {"top-p", ARG_NUMBER, &s->top_p, 0, 1, "sample from the fewest tokens that reach this total probability"},
      {"min-p", ARG_NUMBER, &s->min_p, 0, 1, "sample from tokens of at least this fraction of the top probability"},
      {"repetition-penalty", ARG_NUMBER, &s->repetition_penalty, 1e-6, 1e6,
       "above 1: penalize tokens that occurred before"},
      {"seed", ARG_COUNT, &s->seed, 0, 0x1p53, "random seed"},
      {"stop", ARG_CHOICE, &(struct Choice){&o.stop, STOPS}, 0, 0,
       "eot: stop at an end-of-text token; never: after --tokens"},
      {"eot", ARG_COUNT, &o.eot, 0, INT32_MAX, "end-of-text token; 2147483647: the vocabulary's last"},
      {"dtype", ARG_CHOICE, &(struct Choice){&o.dtype, WEIGHT_NAMES}, 0, 0,
       "number type of the weights: fp32, bf16 or int8"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "number of threads"},
  };
  args_parse("sample", args, sizeof args / sizeof *args, argc, argv);
  if (o.model == NULL) die(EXIT_USAGE, "sample needs --model FILE");
  return o;
}

/* One id a line; where there are several samples, the sample's number before it. */
static void print_token(void *context, const struct Text *text, const struct Told *told) {
  const struct Options *o = context;
  char line[64];
  int length = 0;
  if (o->samples > 1) length = snprintf(line, sizeof line, "%zu ", text->slot);
  length += snprintf(line + length, sizeof line - (size_t)length, "%d\n", told->token);
  if (file_write(DISK_STDOUT, line, (size_t)length)) return;
  if (errno == EPIPE) _Exit(EXIT_OK);
  die(EXIT_BAD_DATA, "cannot write to stdout: %s", strerror(errno));
}

static void check_end(void *context, const struct Text *text, enum TextEnd ending) {
  const struct Options *o = context;
  (void)text;
  if (ending != ENDED_ERROR) return;
  die(EXIT_NOT_FINITE, "%s computes no finite logits: its weights are NaN or infinite; use another", o->model);
}

int command_sample(int argc, char **argv) {
  struct Options o = read_options(argc, argv);
  struct Checkpoint checkpoint;
  const int file = checkpoint_open(o.model, &checkpoint);
  const size_t V = checkpoint.config.V, maxT = checkpoint.config.maxT;
  if (o.eot != INT32_MAX && o.eot >= V) die(EXIT_USAGE, "--eot %zu is not below the %zu tokens of %s", o.eot, V, o.model);
  const int eot = (int)(o.eot < INT32_MAX ? o.eot : V - 1);
  const size_t prompt_length = prompt_parse("prompt", o.prompt, V, eot, NULL);

  struct Arena arena = {0};
  struct Batch batch = {.listener = {&o, NULL, print_token, check_end}};
  struct Decoder *decoder = &batch.decoder;
  *decoder = (struct Decoder){.config = checkpoint.config, .kernels = kernels_best(), .dtype = o.dtype};
  decoder->workers.pool = pool_create((int)o.threads);
  const size_t positions = size_min(maxT, prompt_length + o.tokens);
  int *prompt = NULL;
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) {
      memory_take(&arena, "use fewer --num-samples or --tokens, or a smaller model",
                  "%zu texts of %zu tokens with %s need", o.samples, positions, o.model);
    }
    decoder_layout(decoder, &arena, o.samples, positions);
    batch_layout(&batch, &arena);
    prompt = arena_alloc(&arena, prompt_length, sizeof(int));
  }
  decoder_load(decoder, file, o.model, &checkpoint);

  prompt_parse("prompt", o.prompt, V, eot, prompt);
  const size_t count = request_context(prompt_length, positions);
  struct Request request = {.sampling = o.sampling, .tokens = o.tokens, .count = count,
                            .prompt_tokens = prompt_length, .prompt = prompt + prompt_length - count,
                            .eot = o.stop == STOP_EOT ? eot : -1};
  for (size_t i = 0; i < o.samples; i++, request.sampling.seed++) batch_begin(&batch, &request);
  while (batch.active > 0) batch_turn(&batch);
  pool_destroy(decoder->workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
