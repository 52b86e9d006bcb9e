#include "sample/batch.h"

#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "base/util.h"

void writer_layout(struct Writer *writer, struct Arena *arena) {
  const size_t V = writer->decoder.config.V, slots = writer->decoder.slots, positions = writer->decoder.positions;
  sampler_layout(&writer->sampler, arena, writer->decoder.kernels, V, pool_threads(writer->decoder.workers.pool));
  writer->told = arena_alloc(arena, slots, sizeof *writer->told);
  writer->feeds = arena_alloc(arena, slots, sizeof *writer->feeds);
  writer->texts = arena_alloc(arena, slots, sizeof *writer->texts);
  writer->tokens = arena_alloc(arena, size_product(slots, positions), sizeof *writer->tokens);
  writer->seen = arena_alloc(arena, size_product(slots, V), 1);
}

static void end(struct Writer *writer, struct Text *text, enum TextEnd ending) {
  writer->listener.end(writer->listener.context, text, ending);
  text->active = false;
  writer->active--;
}

void writer_begin(struct Writer *writer, const struct Request *request) {
  const size_t V = writer->decoder.config.V;
  size_t slot = 0;
  while (writer->texts[slot].active) slot++;
  struct Text *text = &writer->texts[slot];
  *text = (struct Text){.request = *request, .slot = slot, .active = true, .order = writer->arrived++,
                        .tokens = writer->tokens + slot * writer->decoder.positions, .length = request->count,
                        .seen = writer->seen + slot * V, .started = clock_seconds()};
  memcpy(text->tokens, request->prompt, request->count * sizeof *text->tokens);
  memset(text->seen, 0, V);
  for (size_t i = 0; i < text->length; i++) text->seen[text->tokens[i]] = 1;
  writer->active++;
  if (request->tokens == 0) end(writer, text, ENDED_LENGTH);
}

struct Text *writer_find(struct Writer *writer, const char *id) {
  for (size_t s = 0; s < writer->decoder.slots; s++) {
    struct Text *text = &writer->texts[s];
    if (text->active && strcmp(text->request.id, id) == 0) return text;
  }
  return NULL;
}

void writer_cancel(struct Writer *writer, struct Text *text) { end(writer, text, ENDED_CANCELLED); }

/* Appends a token that is still to be read. A full context forgets its older half. */
static void append(struct Text *text, int token, size_t positions) {
  if (text->length == positions) {
    const size_t kept = positions / 2;
    memmove(text->tokens, text->tokens + positions - kept, kept * sizeof *text->tokens);
    text->length = kept;
    text->read = 0;
  }
  text->tokens[text->length++] = token;
}

/* The token that follows, from the text's row of logits. */
static void choose(const struct Writer *writer, struct Sampler *sampler, const struct Text *text, const float *logits,
                   struct Told *told) {
  const struct Request *request = &text->request;
  const size_t V = writer->decoder.config.V;
  told->log_sum = sampler_log_sum(sampler, logits, V);
  if (!isfinite(told->log_sum)) return;
  const uint8_t *seen = request->sampling.repetition_penalty != 1 ? text->seen : NULL;
  told->token = sampler_draw(sampler, &request->sampling, logits, seen, V, request->sampling.draws + text->written);
  told->logprob = (double)logits[told->token] - told->log_sum;
  told->tops = sampler_top(told->top, request->logprobs, logits, V);
}

struct Choices {
  const struct Writer *writer;
  size_t count;  // of rows of logits, of the feeds in order
};

/* A text's token is one thread's work. */
static void choose_task(void *argument, int thread, int threads) {
  const struct Choices *choices = argument;
  const struct Writer *writer = choices->writer;
  const struct Decoder *decoder = &writer->decoder;
  struct Sampler sampler = sampler_at(&writer->sampler, thread);
  (void)threads;
  for (size_t i; (i = pool_claim(decoder->workers.pool)) < choices->count;) {
    choose(writer, &sampler, &writer->texts[writer->feeds[i].slot], decoder->logits + i * decoder->config.Vp,
           &writer->told[i]);
  }
}

static void tell(struct Writer *writer, struct Text *text, const struct Told *told) {
  const struct Request *request = &text->request;
  if (!isfinite(told->log_sum)) {
    end(writer, text, ENDED_ERROR);
    return;
  }
  if (text->written == 0) text->prompt_ms = 1e3 * (clock_seconds() - text->started);
  text->seen[told->token] = 1;
  text->written++;
  writer->listener.token(writer->listener.context, text, told);
  if (told->token == request->eot) end(writer, text, ENDED_STOP);
  else if (text->written == request->tokens) end(writer, text, ENDED_LENGTH);
  else append(text, told->token, writer->decoder.positions);
}

/* The contexts of those that were fed are read, and there are the logits of what follows: writes a token each. */
static void write_tokens(struct Writer *writer, size_t count) {
  pool_run(writer->decoder.workers.pool, "sampler", choose_task, &(struct Choices){writer, count});
  for (size_t i = 0; i < count; i++) tell(writer, &writer->texts[writer->feeds[i].slot], &writer->told[i]);
}

/* The text that has waited longest of those with more than one token to read; NULL where there is none. */
static struct Text *next_to_read(struct Writer *writer) {
  struct Text *first = NULL;
  for (size_t s = 0; s < writer->decoder.slots; s++) {
    struct Text *text = &writer->texts[s];
    if (!text->active || text->length - text->read < 2) continue;
    if (first == NULL || text->order < first->order) first = text;
  }
  return first;
}

static void read_chunk(struct Writer *writer, struct Text *text) {
  const size_t count = size_min(text->length - text->read, DECODER_CHUNK);
  decoder_read(&writer->decoder, text->slot, text->tokens + text->read, text->read, count);
  text->read += count;
  if (text->read < text->length) return;
  writer->feeds[0].slot = text->slot;
  write_tokens(writer, 1);
}

void writer_turn(struct Writer *writer) {
  struct Text *reader = next_to_read(writer);
  if (reader != NULL) read_chunk(writer, reader);
  size_t count = 0;
  for (size_t s = 0; s < writer->decoder.slots; s++) {
    struct Text *text = &writer->texts[s];
    if (!text->active || text->length - text->read != 1) continue;
    writer->feeds[count++] = (struct Feed){text->slot, text->read, text->tokens[text->read]};
  }
  if (count == 0) return;
  decoder_step(&writer->decoder, writer->feeds, count);
  for (size_t i = 0; i < count; i++) writer->texts[writer->feeds[i].slot].read++;
  write_tokens(writer, count);
}
