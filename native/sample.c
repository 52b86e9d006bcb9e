/* llmc-native sample: token ids on stdout, one a line, as they are made. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "args.h"
#include "checkpoint.h"
#include "commands.h"
#include "decoder.h"
#include "file.h"
#include "pool.h"
#include "sampler.h"
#include "util.h"

struct Options {
  const char *model, *prompt;
  size_t tokens, top_k, threads, seed;
  double temperature, top_p;
};

static struct Options read_options(int argc, char **argv) {
  struct Options o = {.tokens = 256, .threads = 1, .seed = 1337, .temperature = 1, .top_p = 1};
  const struct Arg args[] = {
      {"model", ARG_TEXT, &o.model, 0, 0, "checkpoint to sample from"},
      {"prompt", ARG_TEXT, &o.prompt, 0, 0, "token ids, separated by commas; default: end-of-text"},
      {"tokens", ARG_COUNT, &o.tokens, 0, 1e9, "tokens to write"},
      {"temperature", ARG_NUMBER, &o.temperature, 0, 1e6, "0: always the most likely token"},
      {"top-k", ARG_COUNT, &o.top_k, 0, 1e9, "draw from the k most likely, 0: from all"},
      {"top-p", ARG_NUMBER, &o.top_p, 0, 1, "draw from the fewest that reach this probability"},
      {"seed", ARG_COUNT, &o.seed, 0, 0x1p53, "the same seed writes the same tokens"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "threads to compute with"},
  };
  args_parse("sample", args, sizeof args / sizeof *args, argc, argv);
  if (o.model == NULL) die(EXIT_USAGE, "sample needs --model FILE");
  return o;
}

/* Token ids of the prompt into ids; returns how many. With ids NULL it only counts and checks. */
static size_t parse_prompt(const char *prompt, size_t V, int *ids) {
  if (prompt == NULL || *prompt == '\0') {
    if (ids != NULL) ids[0] = (int)V - 1;  // end-of-text: the tokenizer's last
    return 1;
  }
  size_t count = 0;
  for (const char *at = prompt;; at++) {
    char *end;
    errno = 0;
    unsigned long id = strtoul(at, &end, 10);
    if (end == at || *at == '-' || errno != 0 || id >= V || (*end != ',' && *end != '\0')) {
      die(EXIT_USAGE, "--prompt takes token ids below %zu, separated by commas, not '%s'", V, prompt);
    }
    if (ids != NULL) ids[count] = (int)id;
    count++;
    if (*end == '\0') return count;
    at = end;
  }
}

static void print_token(int token) {
  char line[16];
  int length = snprintf(line, sizeof line, "%d\n", token);
  if (file_write(STDOUT_FILENO, line, (size_t)length)) return;
  if (errno == EPIPE) _exit(EXIT_OK);
  die(EXIT_BAD_DATA, "cannot write to stdout: %s", strerror(errno));
}

static bool all_finite(const float *x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)x[i];
  return isfinite(sum);
}

struct Story {
  int *tokens;    // (positions) what the cache holds
  size_t length;
};

/* Feeds one more token. When the context is full its older half is forgotten: the newer half is fed
 * again from position 0, as the model knows no position past its context. */
static void feed(struct Decoder *decoder, const struct Gpt2 *model, struct Story *story, int token) {
  if (story->length == decoder->positions) {
    const size_t kept = story->length / 2;
    memmove(story->tokens, story->tokens + story->length - kept, kept * sizeof(int));
    for (size_t i = 0; i < kept; i++) decoder_step(decoder, model, story->tokens[i], i);
    story->length = kept;
  }
  story->tokens[story->length] = token;
  decoder_step(decoder, model, token, story->length++);
}

int command_sample(int argc, char **argv) {
  const struct Options o = read_options(argc, argv);
  struct Checkpoint checkpoint;
  const int file = checkpoint_open(o.model, &checkpoint);
  const size_t V = checkpoint.config.V, prompt_length = parse_prompt(o.prompt, V, NULL);
  struct Gpt2 model = {.config = checkpoint.config, .kernels = kernels_choose()};
  model.workers.pool = pool_create((int)o.threads);

  struct Arena arena = {0};
  struct Decoder decoder;
  struct Story story = {0};
  struct Sampler sampler = {.temperature = o.temperature, .top_k = o.top_k, .top_p = o.top_p, .seed = o.seed};
  int *prompt = NULL;
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) arena_take(&arena);
    gpt2_layout(&model, &arena, 0, 0, false);
    decoder_layout(&decoder, &arena, &model.config, size_min(model.config.maxT, prompt_length + o.tokens));
    sampler_layout(&sampler, &arena, V);
    story.tokens = arena_alloc(&arena, decoder.positions, sizeof(int));
    prompt = arena_alloc(&arena, prompt_length, sizeof(int));
  }
  checkpoint_read(file, o.model, &checkpoint, model.params.first);

  parse_prompt(o.prompt, V, prompt);
  for (size_t i = 0; i < prompt_length; i++) feed(&decoder, &model, &story, prompt[i]);
  for (size_t i = 0; i < o.tokens; i++) {
    const int token = sampler_draw(&sampler, decoder.logits, V);
    if (!all_finite(decoder.logits, V)) {
      die(EXIT_NOT_FINITE, "%s computes no finite logits: its weights are NaN or infinite; use another", o.model);
    }
    print_token(token);
    if (i + 1 < o.tokens) feed(&decoder, &model, &story, token);
  }
  pool_destroy(model.workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
