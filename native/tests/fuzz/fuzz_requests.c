/* The lines of `llmc-native generate`, alone: what is accepted is within its ranges, what is not gets a message that can
 * stand in a line of JSON. */
#include "fuzz.h"

#include <math.h>

#include "sample/requests.h"

static void fuzz_prepare(void) {}

static void check(const char *line, size_t length, size_t V, size_t positions, int *prompt, char *message) {
  struct Request request = {.prompt = prompt};
  const enum Asked asked = request_parse(&request, line, length, V, positions, message);
  const struct Sampling *s = &request.sampling;
  if (strlen(request.id) > REQUEST_ID) abort();
  if (asked == ASKED_REQUEST) {
    if (request.count < 1 || request.count > positions || request.count > request.prompt_tokens) abort();
    for (size_t i = 0; i < request.count; i++) {
      if (prompt[i] < 0 || (size_t)prompt[i] >= V) abort();
    }
    if (!(s->temperature >= 0 && s->temperature <= 1e6) || !(s->top_p >= 0 && s->top_p <= 1)) abort();
    if (!(s->min_p >= 0 && s->min_p <= 1) || !(s->repetition_penalty > 0)) abort();
    if (s->bias_count > MOST_BIASES) abort();
    for (size_t i = 0; i < s->bias_count; i++) {
      if (s->biases[i].token < 0 || (size_t)s->biases[i].token >= V || !(fabsf(s->biases[i].added) <= 1e6f)) abort();
    }
    if (request.logprobs > REQUEST_LOGPROBS || request.eot < -1 || request.eot >= (int)V) abort();
  }
  if (asked == ASKED_NONSENSE) {
    if (*message == '\0') abort();
    for (const char *at = message; *at != '\0'; at++) {
      if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') abort();
    }
  }
}

/* Two bytes of V, one of positions, the line. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  const size_t low = fuzz_byte(&input), V = 1 + (low | (size_t)fuzz_byte(&input) << 8);
  const size_t positions = 1 + (size_t)fuzz_byte(&input);
  /* Each in a block of its own, of exactly its size. */
  char *line = malloc(input.left + 1), *message = malloc(256);
  int *prompt = malloc(positions * sizeof *prompt);
  memcpy(line, input.at, input.left);
  line[input.left] = '\0', *message = '\0';
  FUZZ(check(line, input.left, V, positions, prompt, message));
  free(line), free(message), free(prompt);
  return 0;
}
