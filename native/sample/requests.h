/* The requests to `llmc-native generate`, one a line (docs/reference/generate.md). */
#ifndef LLMC_REQUESTS_H
#define LLMC_REQUESTS_H

#include "sample/sampler.h"

enum { REQUEST_ID = 64, REQUEST_LOGPROBS = 20 };

struct Request {
  char id[REQUEST_ID + 1];
  struct Sampling sampling;
  size_t tokens;         // to write
  int eot;               // the token to stop after, -1: none
  size_t logprobs;       // likely tokens to tell with each token, at most REQUEST_LOGPROBS
  bool echo;             // tell the prompt's tokens too
  size_t prompt_tokens;  // of the prompt as it came
  size_t count;          // of those below
  int *prompt;           // (positions) the end of the prompt that the context holds
};

enum Asked { ASKED_REQUEST, ASKED_CANCEL, ASKED_NONSENSE };

/* Reads a line without its newline, which may be anything; `length` bytes, and a 0 behind them that is not
 * counted. The request's prompt points to room for `positions` tokens; ids of tokens are below V. Of
 * ASKED_CANCEL only the id is set. Of ASKED_NONSENSE the id is set, or "" where there is none, and `message`
 * (256 bytes) says what is wrong. */
enum Asked request_parse(struct Request *request, const char *line, size_t length, size_t V, size_t positions,
                         char *message);

/* Reads the token ids below V of a flag, with commas between them, into ids; `eot` where there are none. Returns how
 * many. With ids NULL it only counts and checks. Dies with EXIT_USAGE. */
size_t prompt_parse(const char *flag, const char *prompt, size_t V, int eot, int *ids);

/* Of `count` tokens that were read one by one, how many the context still holds: when it is full, its newer
 * half is kept. */
size_t request_context(size_t count, size_t positions);

#endif
