/* Texts that are being generated, up to S at once, each in a slot of the decoder.
 *
 * Every turn one chunk of a new text's prompt is read, and then all other texts get their next token
 * together: so a long prompt does not keep the others waiting, and a text may join at any turn. What is
 * written for one text depends on its own request alone.
 *
 * The model knows no position past its context. When a text has filled it (`positions` tokens) the older half
 * is forgotten, and the newer half is read again, from position 0 on.
 *
 * A slot keeps the tokens of its last text, with their keys and values. With `reuses`, a prompt that begins with the same
 * tokens is read from the first one that differs. The bits do not change: a token of a prompt has the same keys and values
 * in every text. Those of a written token come from decoding's product and differ, so it is read again as a prompt when
 * there is no other work.
 */
#ifndef LLMC_BATCH_H
#define LLMC_BATCH_H

#include "sample/decoder.h"
#include "sample/requests.h"

enum TextEnd { ENDED_LENGTH, ENDED_STOP, ENDED_CANCELLED, ENDED_ERROR };

/* A token that was written, or one of the prompt. */
struct Told {
  int token;
  double logprob;         // of the model's own distribution, at temperature 1
  struct Candidate top[REQUEST_LOGPROBS];
  size_t tops;            // the most likely tokens, as many as were asked for
  double log_sum;         // a candidate's log-probability is its number less this; not finite: there is no token
};

struct Text {
  struct Request request;  // the prompt's tokens are in `tokens`
  size_t slot;
  bool active;
  uint64_t order;          // of arrival
  int *tokens;             // (positions) the context
  size_t length, read;     // of the context, of which the cache holds so many
  size_t firm;             // of those, the first ones that were read as a prompt, and can be reused
  size_t cached;           // tokens of the prompt that were not read because the cache had them
  bool begun;              // to read the prompt
  size_t written;
  uint8_t *seen;           // (V) of prompt and text
  uint32_t *times;         // (V) how often each token was written
  double started, prompt_ms;
};

/* Who hears what is written. After `end` the slot is free. */
struct Listener {
  void *context;
  void (*prompt)(void *context, const struct Text *text, const struct Told *told);  // of requests with echo
  void (*token)(void *context, const struct Text *text, const struct Told *told);
  void (*end)(void *context, const struct Text *text, enum TextEnd ending);
};

struct Batch {
  struct Listener listener;
  bool reuses;          // keys and values of one text serve the next; the weights must stay as they are
  struct Decoder decoder;
  struct Sampler sampler;
  const char *unused;   // ids that are never drawn, as sampler_exclude takes them; NULL: none
  struct Text *texts;   // (S)
  struct Feed *feeds;   // (S) of this turn
  struct Told *told;    // (S) what they lead to
  int *tokens;          // (S, positions)
  uint8_t *seen;        // (S, V)
  uint32_t *times;      // (S, V)
  size_t active;
  uint64_t arrived;
};

/* Lays out what texts need, after the batch's decoder. */
void batch_layout(struct Batch *batch, struct Arena *arena);

/* Begins a text in a free slot; there must be one (batch->active < slots). */
void batch_begin(struct Batch *batch, const struct Request *request);

/* The text of that id, NULL where there is none. */
struct Text *batch_find(struct Batch *batch, const char *id);

void batch_cancel(struct Batch *batch, struct Text *text);

/* One turn, for all texts. */
void batch_turn(struct Batch *batch);

/* Reads a few tokens that were written again, as those of a prompt; there are no active texts. False where there is
 * nothing to do. */
bool batch_settle(struct Batch *batch);

/* Whether batch_settle has something to do. */
bool batch_unsettled(const struct Batch *batch);

#endif
