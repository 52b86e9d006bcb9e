#include "sample/batch.h"

#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "base/util.h"

void batch_layout(struct Batch *batch, struct Arena *arena) {
  const size_t V = batch->decoder.config.V, slots = batch->decoder.slots, positions = batch->decoder.positions;
  sampler_layout(&batch->sampler, arena, batch->decoder.kernels, V, pool_threads(batch->decoder.workers.pool));
  batch->told = arena_alloc(arena, slots, sizeof *batch->told);
  batch->feeds = arena_alloc(arena, slots, sizeof *batch->feeds);
  batch->texts = arena_alloc(arena, slots, sizeof *batch->texts);
  batch->tokens = arena_alloc(arena, size_product(slots, positions), sizeof *batch->tokens);
  batch->seen = arena_alloc(arena, size_product(slots, V), 1);
  batch->times = arena_alloc(arena, size_product(slots, V), sizeof *batch->times);
}

static void end(struct Batch *batch, struct Text *text, enum TextEnd ending) {
  batch->listener.end(batch->listener.context, text, ending);
  text->active = false;
  batch->active--;
}

/* Tokens at the beginning of the prompt whose keys and values a slot has: none where it is not worth the while. */
static size_t shared_tokens(const struct Batch *batch, const struct Text *held, const int *prompt, size_t count) {
  const size_t most = size_min(held->firm, count - 1);  // the last one is read, for its logits
  size_t same = 0;
  while (same < most && held->tokens[same] == prompt[same]) same++;
  same = batch->reuses ? decoder_resume(&batch->decoder, count, same) : 0;
  return same < PROMPT_ROWS ? 0 : same;
}

/* The free slot for a prompt: the one that shares most of it, unless that would lose more than it saves; then the one
 * that was used longest ago. */
static size_t choose_slot(const struct Batch *batch, const struct Request *request) {
  const struct Text *oldest = NULL, *best = NULL;
  size_t most = 0;
  for (size_t s = 0; s < batch->decoder.slots; s++) {
    const struct Text *text = &batch->texts[s];
    if (text->active) continue;
    if (oldest == NULL || text->order < oldest->order) oldest = text;
    const size_t shared = request->echo ? 0 : shared_tokens(batch, text, request->prompt, request->count);
    if (shared > most && 2 * shared >= text->firm) best = text, most = shared;
  }
  return (size_t)((best != NULL ? best : oldest) - batch->texts);
}

void batch_begin(struct Batch *batch, const struct Request *request) {
  const size_t V = batch->decoder.config.V, slot = choose_slot(batch, request);
  struct Text *text = &batch->texts[slot];
  const size_t shared = text->firm == 0 || request->echo ? 0 : shared_tokens(batch, text, request->prompt, request->count);
  *text = (struct Text){.request = *request, .slot = slot, .active = true, .order = ++batch->arrived,
                        .read = shared, .firm = shared, .cached = shared,
                        .tokens = batch->tokens + slot * batch->decoder.positions, .length = request->count,
                        .seen = batch->seen + slot * V, .times = batch->times + slot * V, .started = clock_seconds()};
  memcpy(text->tokens, request->prompt, request->count * sizeof *text->tokens);
  memset(text->seen, 0, V);
  memset(text->times, 0, V * sizeof *text->times);
  for (size_t i = 0; i < text->length; i++) text->seen[text->tokens[i]] = 1;
  batch->active++;
  if (request->tokens == 0 && !request->echo) end(batch, text, ENDED_LENGTH);
}

struct Text *batch_find(struct Batch *batch, const char *id) {
  for (size_t s = 0; s < batch->decoder.slots; s++) {
    struct Text *text = &batch->texts[s];
    if (text->active && strcmp(text->request.id, id) == 0) return text;
  }
  return NULL;
}

void batch_cancel(struct Batch *batch, struct Text *text) { end(batch, text, ENDED_CANCELLED); }

/* Appends a token that is still to be read. A full context forgets its older half. */
static void append(struct Text *text, int token, size_t positions) {
  if (text->length == positions) {
    const size_t kept = positions / 2;
    memmove(text->tokens, text->tokens + positions - kept, kept * sizeof *text->tokens);
    text->length = kept;
    text->read = text->firm = 0;
  }
  text->tokens[text->length++] = token;
}

/* The token that follows, from the text's row of logits. */
static void choose(const struct Batch *batch, struct Sampler *sampler, const struct Text *text, float *logits,
                   struct Told *told) {
  const struct Request *request = &text->request;
  const size_t V = batch->decoder.config.V;
  sampler_exclude(logits, batch->unused);
  told->log_sum = sampler_log_sum(sampler, logits, V);
  if (!isfinite(told->log_sum)) return;
  told->token = sampler_draw(sampler, &request->sampling, logits, (struct Past){text->seen, text->times}, V,
                             request->sampling.draws + text->written);
  told->logprob = (double)logits[told->token] - told->log_sum;
  told->tops = sampler_top(told->top, request->logprobs, logits, V);
}

struct Choices {
  const struct Batch *batch;
  size_t count;  // of rows of logits, of the feeds in order
};

/* A text's token is one thread's work. */
static void choose_task(void *argument, int thread, int threads) {
  const struct Choices *choices = argument;
  const struct Batch *batch = choices->batch;
  const struct Decoder *decoder = &batch->decoder;
  struct Sampler sampler = sampler_at(&batch->sampler, thread);
  (void)threads;
  for (size_t i; (i = pool_claim(decoder->workers.pool)) < choices->count;) {
    choose(batch, &sampler, &batch->texts[batch->feeds[i].slot], decoder->logits + i * decoder->config.Vp,
           &batch->told[i]);
  }
}

static void tell(struct Batch *batch, struct Text *text, const struct Told *told) {
  const struct Request *request = &text->request;
  if (!isfinite(told->log_sum)) {
    end(batch, text, ENDED_ERROR);
    return;
  }
  if (request->tokens == 0) {  // the prompt was all that was asked for
    end(batch, text, ENDED_LENGTH);
    return;
  }
  if (text->written == 0) text->prompt_ms = 1e3 * (clock_seconds() - text->started);
  text->seen[told->token] = 1;
  text->times[told->token]++;
  text->written++;
  batch->listener.token(batch->listener.context, text, told);
  if (told->token == request->eot) end(batch, text, ENDED_STOP);
  else if (text->written == request->tokens) end(batch, text, ENDED_LENGTH);
  else append(text, told->token, batch->decoder.positions);
}

/* The contexts of those that were fed are read, and there are the logits of what follows: writes a token each. */
static void write_tokens(struct Batch *batch, size_t count) {
  pool_run(batch->decoder.workers.pool, "sampler", choose_task, &(struct Choices){batch, count});
  for (size_t i = 0; i < count; i++) tell(batch, &batch->texts[batch->feeds[i].slot], &batch->told[i]);
}

/* The text that has waited longest of those with more than one token to read; NULL where there is none. */
static struct Text *next_to_read(struct Batch *batch) {
  struct Text *first = NULL;
  for (size_t s = 0; s < batch->decoder.slots; s++) {
    struct Text *text = &batch->texts[s];
    if (!text->active || text->length - text->read < 2) continue;
    if (first == NULL || text->order < first->order) first = text;
  }
  return first;
}

/* Tells which probability each token of the prompt had after those before it; `count` tokens have just been read.
 * False where that is not a number. */
static bool tell_prompt(struct Batch *batch, const struct Text *text, size_t count) {
  struct Decoder *d = &batch->decoder;
  const size_t V = d->config.V, most = size_min(d->slots, DECODE_ROWS);
  for (size_t first = 0; first < count; first += most) {
    const size_t rows = size_min(most, count - first);
    decoder_logits(d, first, rows);
    for (size_t i = 0; i < rows && text->read + first + i + 1 < text->length; i++) {
      float *logits = d->logits + i * d->config.Vp;
      struct Told told = {.token = text->tokens[text->read + first + i + 1]};
      sampler_exclude(logits, batch->unused);
      told.log_sum = sampler_log_sum(&batch->sampler, logits, V);
      if (!isfinite(told.log_sum)) return false;
      told.logprob = (double)logits[told.token] - told.log_sum;
      told.tops = sampler_top(told.top, text->request.logprobs, logits, V);
      batch->listener.prompt(batch->listener.context, text, &told);
    }
  }
  decoder_logits(d, count - 1, 1);  // as decoder_read left them
  return true;
}

/* Takes over what another slot has of the prompt: only now, because the texts before this one have read theirs. */
static void take_shared(struct Batch *batch, struct Text *text) {
  text->begun = true;
  const struct Text *best = text;
  size_t most = text->read;
  for (size_t s = 0; s < batch->decoder.slots && !text->request.echo; s++) {
    const size_t shared = s == text->slot ? 0 : shared_tokens(batch, &batch->texts[s], text->tokens, text->length);
    if (shared > most) best = &batch->texts[s], most = shared;
  }
  if (best == text) return;
  decoder_copy(&batch->decoder, text->slot, best->slot, text->read, most);
  text->read = text->firm = text->cached = most;
}

static void read_chunk(struct Batch *batch, struct Text *text) {
  if (!text->begun) take_shared(batch, text);
  const size_t left = text->length - text->read;
  if (left == 1) return;  // batch_turn reads a last one
  struct Decoder *decoder = &batch->decoder;
  const size_t count = decoder->rows == 1 ? 1 : size_min(left, DECODER_CHUNK - text->read % DECODER_CHUNK);
  if (decoder->rows == 1) decoder_step(decoder, &(struct Feed){text->slot, text->read, text->tokens[text->read]}, 1);
  else decoder_read(decoder, text->slot, text->tokens + text->read, text->read, count);
  if (text->request.echo && text->written == 0 && !tell_prompt(batch, text, count)) {
    end(batch, text, ENDED_ERROR);
    return;
  }
  text->read += count;
  if (count >= decoder_piece(decoder)) text->firm = text->read;
  if (text->read < text->length) return;
  batch->feeds[0].slot = text->slot;
  write_tokens(batch, 1);
}

void batch_turn(struct Batch *batch) {
  struct Text *reader = next_to_read(batch);
  if (reader != NULL) read_chunk(batch, reader);
  size_t count = 0;
  for (size_t s = 0; s < batch->decoder.slots; s++) {
    struct Text *text = &batch->texts[s];
    if (!text->active || text->length - text->read != 1) continue;
    batch->feeds[count++] = (struct Feed){text->slot, text->read, text->tokens[text->read]};
  }
  if (count == 0) return;
  decoder_step(&batch->decoder, batch->feeds, count);
  for (size_t i = 0; i < count; i++) batch->texts[batch->feeds[i].slot].read++;
  write_tokens(batch, count);
}

/* Fewer than a piece of tokens cannot be read again. */
static bool settled(const struct Text *text, size_t piece) { return text->read < text->firm + piece; }

bool batch_unsettled(const struct Batch *batch) {
  const size_t piece = decoder_piece(&batch->decoder);
  size_t s = 0;
  while (s < batch->decoder.slots && settled(&batch->texts[s], piece)) s++;
  return batch->reuses && s < batch->decoder.slots;
}

bool batch_settle(struct Batch *batch) {
  const size_t piece = decoder_piece(&batch->decoder);
  struct Text *last = NULL;
  for (size_t s = 0; s < batch->decoder.slots; s++) {
    struct Text *text = &batch->texts[s];
    if (!settled(text, piece) && (last == NULL || text->order > last->order)) last = text;
  }
  if (!batch->reuses || last == NULL) return false;
  decoder_read(&batch->decoder, last->slot, last->tokens + last->firm, last->firm, piece);
  last->firm += piece;
  return true;
}
