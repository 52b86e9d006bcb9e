#include "sample/decoder.h"

#include <string.h>

#include "base/pool.h"
#include "base/util.h"

/* ---- memory ------------------------------------------------------------------------------------- */

static float *floats(struct Arena *arena, size_t rows, size_t columns) {
  return arena_alloc(arena, size_product(rows, columns), sizeof(float));
}

/* The type in which a tensor is kept: only what is multiplied is worth narrowing. */
static enum Dtype kept_as(const struct Decoder *decoder, const struct Tensor *tensor) {
  return tensor->kind == MATRIX && strcmp(tensor->name, "wpe") != 0 ? decoder->dtype : FP32;
}

static struct Weights weights_alloc(const struct Decoder *decoder, struct Arena *arena, const struct Tensor *tensor) {
  const size_t matrices = tensor->place == BLOCK ? decoder->config.L : 1, N = tensor->rows, K = tensor->columns;
  struct Weights weights = {.dtype = kept_as(decoder, tensor)};
  weights.data = arena_alloc(arena, size_product(matrices, weights_count(weights.dtype, N, K)), dtype_size(weights.dtype));
  if (weights.dtype == INT8) weights.scales = floats(arena, matrices, weights_scales(INT8, N, K));
  return weights;
}

/* Cache and activations. Rows of a head are filled up to whole vectors with the zeros of the arena. */
static void buffers_alloc(struct Decoder *d, struct Arena *arena, size_t slots, size_t positions, size_t rows) {
  const size_t C = d->config.C, NH = d->config.NH, heads = size_product(d->config.L, size_product(slots, NH));
  const size_t cached = size_product(size_product(heads, positions), round_up(C / NH, CACHE_LANES));
  const enum Dtype dtype = d->dtype == FP32 ? FP32 : BF16;
  d->slots = slots, d->positions = positions, d->rows = rows;
  d->cache.P = positions;
  d->cache.keys = (struct Array){arena_alloc(arena, cached, dtype_size(dtype)), dtype};
  d->cache.values = (struct Array){arena_alloc(arena, cached, dtype_size(dtype)), dtype};
  d->mean = floats(arena, rows, 1), d->rstd = floats(arena, rows, 1);
  d->x = floats(arena, rows, C), d->ln = floats(arena, rows, C), d->att = floats(arena, rows, C);
  d->qkv = floats(arena, rows, 3 * C);
  d->fch = floats(arena, rows, 4 * C);
  d->logits = floats(arena, slots, d->config.Vp);
}

enum { READ_FLOATS = 1 << 16 };  // that come from a checkpoint at a time, unless a row is longer

void decoder_layout(struct Decoder *d, struct Arena *arena, size_t slots, size_t positions) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&d->config, tensors);
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) d->params.tensors[i] = weights_alloc(d, arena, &tensors[i]);
  const size_t rows = size_max(size_min(slots, DECODE_ROWS), size_min(positions, DECODER_CHUNK));
  d->rows_read = floats(arena, size_max(READ_FLOATS, 4 * d->config.C), 1);
  buffers_alloc(d, arena, slots, positions, rows);
  const size_t largest = size_max(size_max(rows, 4 * d->config.C), d->config.Vp);
  d->workers.own_floats = d->kernels->own_floats(positions, d->config.C / d->config.NH);
  d->workers.shared = floats(arena, d->kernels->shared_floats(largest), 1);
  d->workers.own = floats(arena, (size_t)pool_threads(d->workers.pool), d->workers.own_floats);
}

void decoder_layout_beside(struct Decoder *d, struct Arena *arena, const struct Gpt2 *model, size_t positions) {
  d->config = model->config;
  d->kernels = model->kernels;
  d->workers = model->workers;
  d->dtype = FP32;  // as the weights are, whatever the model multiplies
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    d->params.tensors[i] = (struct Weights){FP32, model->params.tensors[i], NULL};
  }
  buffers_alloc(d, arena, 1, positions, 1);
}

/* ---- loading ------------------------------------------------------------------------------------ */

void decoder_store(struct Decoder *d, int tensor, size_t first, size_t count, const float *rows) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&d->config, tensors);
  const size_t N = tensors[tensor].rows, K = tensors[tensor].columns;
  for (const size_t end = first + count; first < end; first += count, rows += count * K) {
    count = size_min(end - first, N - first % N);
    const struct Weights to = weights_at(d->params.tensors[tensor], first / N, N, K);
    d->kernels->weights_store(&d->workers, to, rows, first % N, count, K);
  }
}

static float *place_rows(void *context, const struct CheckpointRows *rows) {
  struct Decoder *d = context;
  (void)rows;
  return d->rows_read;
}

static void keep_rows(void *context, const struct CheckpointRows *rows) {
  struct Decoder *d = context;
  decoder_store(d, rows->tensor, rows->first, rows->count, d->rows_read);
}

void decoder_load(struct Decoder *d, int file, const char *path, const struct Checkpoint *checkpoint) {
  checkpoint_read_rows(file, path, checkpoint, &(struct CheckpointSink){d, READ_FLOATS, place_rows, keep_rows});
}

/* ---- computing ---------------------------------------------------------------------------------- */

/* x (n, C) = wte[token] + wpe[position] */
static void embed(struct Decoder *d, const struct Feed *feeds, size_t n) {
  const size_t C = d->config.C;
  for (size_t i = 0; i < n; i++) {
    const float *position = (const float *)d->params.wpe.data + feeds[i].position * C;
    for (size_t c = 0; c < C; c++) {
      d->x[i * C + c] = weights_get(weights_view(d->params.wte), (size_t)feeds[i].token, c, C) + position[c];
    }
  }
}

static void normalize(struct Decoder *d, const float *x, struct Weights weight, struct Weights bias, size_t l,
                      size_t n) {
  const size_t C = d->config.C;
  d->kernels->layernorm_forward(
      &d->workers, (struct LayerNormForward){.out = array_of(d->ln), .mean = d->mean, .rstd = d->rstd, .inp = x,
                                             .weight = (const float *)weight.data + l * C,
                                             .bias = (const float *)bias.data + l * C, .N = n, .C = C});
}

/* What a linear layer of every block reads and writes: out (n, N) = finish(inp (n, K) · weightᵀ + bias). */
struct BlockLinear {
  float *out;
  const float *inp;
  struct Weights weight, bias;  // of all blocks
  enum DecodeFinish finish;
  size_t N, K;
};

/* With those of block l, for n tokens. */
static void linear(struct Decoder *d, struct BlockLinear a, size_t l, size_t n, bool prompt) {
  const struct Kernels *k = d->kernels;
  (prompt && n >= PROMPT_ROWS ? k->prompt_linear : k->decode_linear)(
      &d->workers, (struct DecodeLinear){.out = a.out, .inp = a.inp,
                                         .weight = weights_view(weights_at(a.weight, l, a.N, a.K)),
                                         .bias = (const float *)a.bias.data + l * a.N, .finish = a.finish,
                                         .M = n, .N = a.N, .K = a.K});
}

/* The layer's part of the cache. */
static struct Cache cache_at(const struct Decoder *d, size_t l) {
  const size_t HS = d->config.C / d->config.NH;
  const size_t layer = d->slots * d->config.NH * d->positions * round_up(HS, CACHE_LANES);
  return (struct Cache){array_at(d->cache.keys, l * layer), array_at(d->cache.values, l * layer), d->positions};
}

/* n tokens through all blocks, from x to x; with `prompt` they follow each other in one slot. */
static void blocks(struct Decoder *d, const struct Feed *feeds, size_t n, bool prompt) {
  const struct Kernels *k = d->kernels;
  const struct Workers *w = &d->workers;
  const union Gpt2Weights *p = &d->params;
  const size_t C = d->config.C, NH = d->config.NH;
  for (size_t l = 0; l < d->config.L; l++) {
    normalize(d, d->x, p->ln1w, p->ln1b, l, n);
    linear(d, (struct BlockLinear){d->qkv, d->ln, p->qkvw, p->qkvb, DECODE_STORE, 3 * C, C}, l, n, prompt);
    if (prompt) k->attention_prompt(w, d->att, d->qkv, cache_at(d, l), feeds[0], n, C, NH);
    else k->attention_forward_cached(w, d->att, d->qkv, cache_at(d, l), feeds, n, C, NH);
    linear(d, (struct BlockLinear){d->x, d->att, p->attprojw, p->attprojb, DECODE_ADD, C, C}, l, n, prompt);

    normalize(d, d->x, p->ln2w, p->ln2b, l, n);
    linear(d, (struct BlockLinear){d->fch, d->ln, p->fcw, p->fcb, DECODE_GELU, 4 * C, C}, l, n, prompt);
    linear(d, (struct BlockLinear){d->x, d->fch, p->fcprojw, p->fcprojb, DECODE_ADD, C, 4 * C}, l, n, prompt);
  }
}

/* logits (n, Vp) of n rows of x */
static void head(struct Decoder *d, float *logits, const float *x, size_t n) {
  normalize(d, x, d->params.lnfw, d->params.lnfb, 0, n);
  d->kernels->decode_linear(
      &d->workers, (struct DecodeLinear){.out = logits, .inp = d->ln, .weight = weights_view(d->params.wte),
                                         .finish = DECODE_STORE, .M = n, .N = d->config.Vp, .K = d->config.C});
}

void decoder_read(struct Decoder *d, size_t slot, const int *tokens, size_t position, size_t count) {
  struct Feed feeds[DECODER_CHUNK];
  for (size_t i = 0; i < count; i++) feeds[i] = (struct Feed){slot, position + i, tokens[i]};
  embed(d, feeds, count);
  blocks(d, feeds, count, true);
  head(d, d->logits, d->x + (count - 1) * d->config.C, 1);
}

size_t decoder_piece(const struct Decoder *d) {
  return strcmp(d->kernels->name, "blas") == 0 && d->dtype == FP32 ? DECODER_CHUNK : PROMPT_ROWS;
}

size_t decoder_resume(const struct Decoder *d, size_t count, size_t held) {
  const size_t piece = decoder_piece(d);
  const size_t first = held - held % DECODER_CHUNK, end = size_min(first + DECODER_CHUNK, count);
  if (end - first < piece) return first;  // the last piece of such a prompt has other bits
  return size_min(held, end - piece);
}

void decoder_copy(struct Decoder *d, size_t to, size_t from, size_t first, size_t end) {
  const size_t NH = d->config.NH, P = d->positions, row = round_up(d->config.C / NH, CACHE_LANES);
  const struct Array kept[] = {d->cache.keys, d->cache.values};
  for (size_t i = 0; i < 2; i++) {
    const size_t bytes = row * dtype_size(kept[i].dtype);
    for (size_t l = 0; l < d->config.L; l++) {
      for (size_t h = 0; h < NH; h++) {
        char *slots = (char *)kept[i].data + (l * d->slots * NH + h) * P * bytes;  // head h of the layer's first slot
        memcpy(slots + (to * NH * P + first) * bytes, slots + (from * NH * P + first) * bytes, (end - first) * bytes);
      }
    }
  }
}

void decoder_logits(struct Decoder *d, size_t first, size_t count) {
  head(d, d->logits, d->x + first * d->config.C, count);
}

void decoder_step(struct Decoder *d, const struct Feed *feeds, size_t count) {
  const size_t most = size_min(d->rows, DECODE_ROWS);  // more would be taken for a prompt, with other bits
  for (size_t first = 0; first < count; first += most) {
    const size_t n = size_min(most, count - first);
    embed(d, feeds + first, n);
    blocks(d, feeds + first, n, false);
    head(d, d->logits + first * d->config.Vp, d->x, n);
  }
}
