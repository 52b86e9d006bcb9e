/* Where a model's parameters, moments, activations and scratch memory lie in its one block of memory. */
#include "model/gpt2.h"

#include "base/pool.h"
#include "base/util.h"
#include "model/pieces.h"

void gpt2_tensors(const struct Config *config, struct Tensor tensors[GPT2_TENSOR_COUNT]) {
  const size_t maxT = config->maxT, Vp = config->Vp, C = config->C;
  const struct Tensor list[] = {
#define X(name, kind, place, rows, columns) {#name, kind, place, rows, columns},
      GPT2_TENSORS(X)
#undef X
  };
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) tensors[i] = list[i];
}

size_t gpt2_tensor_count(const struct Tensor *tensor, size_t blocks) {
  return size_product(size_product(tensor->place == BLOCK ? blocks : 1, tensor->rows), tensor->columns);
}

static size_t parameters_count(const struct Config *config, size_t blocks) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(config, tensors);
  size_t count = 0;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (__builtin_add_overflow(count, gpt2_tensor_count(&tensors[i], blocks), &count)) {
      die(EXIT_BAD_DATA, "the model's header asks for more parameters than can be addressed");
    }
  }
  return count;
}

size_t gpt2_count(const struct Config *config) { return parameters_count(config, config->L); }

size_t gpt2_v_bytes(const struct Config *config, enum MomentsType type, enum Optimizer optimizer) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(config, tensors);
  size_t bytes = 0;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (optimizer_is_muon(optimizer, &tensors[i])) continue;
    bytes += (tensors[i].place == BLOCK ? config->L : 1) * moments_bytes(type, gpt2_tensor_count(&tensors[i], 1));
  }
  return bytes;
}

size_t gpt2_m_bytes(const struct Config *config, enum MomentsType type) { return gpt2_v_bytes(config, type, ADAMW); }

static struct Parameters parameters_alloc(const struct Config *config, struct Arena *arena, size_t blocks) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(config, tensors);
  float *at = arena_alloc(arena, parameters_count(config, blocks), sizeof(float));
  struct Parameters parameters = {.first = at, .blocks = blocks};
  if (at == NULL) return parameters;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) parameters.tensors[i] = at, at += gpt2_tensor_count(&tensors[i], blocks);
  return parameters;
}

/* Bytes handed out since *mark, which moves up. */
static size_t arena_since(const struct Arena *arena, size_t *mark) {
  size_t bytes = arena->used - *mark;
  *mark = arena->used;
  return bytes;
}

static float *floats(struct Arena *arena, size_t rows, size_t columns) {
  return arena_alloc(arena, size_product(rows, columns), sizeof(float));
}

/* Numbers of the type that the model multiplies. */
static struct Array numbers(const struct Gpt2 *model, struct Arena *arena, size_t rows, size_t columns) {
  return (struct Array){arena_alloc(arena, size_product(rows, columns), dtype_size(model->dtype)), model->dtype};
}

static void activations_alloc(struct Gpt2 *model, struct Arena *arena, bool training) {
  const struct Config *config = &model->config;
  const size_t BT = size_product(model->B, model->T), C = config->C;
  const size_t kept = size_product(model->recompute ? 1 : config->L, BT);
  struct Activations *acts = &model->acts;
  acts->encoded = floats(arena, BT, C);
  acts->ln1 = numbers(model, arena, kept, C);
  acts->ln1_mean = floats(arena, kept, 1), acts->ln1_rstd = floats(arena, kept, 1);
  acts->qkv = numbers(model, arena, kept, 3 * C);
  acts->lse = floats(arena, kept, config->NH);
  acts->att = numbers(model, arena, kept, C);
  acts->residual2 = floats(arena, kept, C);
  acts->ln2 = numbers(model, arena, kept, C);
  acts->ln2_mean = floats(arena, kept, 1), acts->ln2_rstd = floats(arena, kept, 1);
  acts->fch_gelu = numbers(model, arena, kept, 4 * C);
  acts->fch_slope = numbers(model, arena, kept, 4 * C);
  acts->residual3 = floats(arena, size_product(config->L, BT), C);
  acts->lnf = numbers(model, arena, BT, C);
  acts->lnf_mean = floats(arena, BT, 1), acts->lnf_rstd = floats(arena, BT, 1);
  acts->logits = floats(arena, size_min(BT, gpt2_head_rows(model)), config->Vp);
  acts->losses = floats(arena, BT, 1);
  acts->counted = arena_alloc(arena, BT, sizeof(int));
  if (training) {
    struct ActivationGradients *dacts = &model->dacts;
    dacts->residual = floats(arena, BT, C), dacts->branch = floats(arena, BT, C);
    dacts->qkv = floats(arena, BT, 3 * C), dacts->fch = floats(arena, BT, 4 * C);
  }
}

struct Gpt2 gpt2_eval_model(const struct Gpt2 *model) {
  struct Gpt2 eval = *model;
  eval.B = model->eval.B, eval.T = model->eval.T, eval.acts = model->eval.acts;
  eval.recompute = true;  // one layer's activations are enough: there is no backward pass
  return eval;
}

/* Both shapes begin at the same place. */
static void all_activations_alloc(struct Gpt2 *model, struct Arena *arena, bool training) {
  const size_t begin = arena->used;
  if (model->B > 0) activations_alloc(model, arena, training);
  if (model->eval.B == 0) return;
  const size_t end = arena->used;
  struct Gpt2 eval = gpt2_eval_model(model);
  arena->used = begin;
  activations_alloc(&eval, arena, false);
  model->eval.acts = eval.acts;
  arena->used = size_max(arena->used, end);
}

static const struct Border *cut_own(struct Gpt2 *model) {
  const size_t ranks = size_max(model->ranks, 1);
  for (size_t end = 0; end < 2; end++) {
    model->own[end] = pieces_border(&model->config, model->moments.type, model->optimizer, model->rank + end, ranks);
  }
  return model->own;
}

void gpt2_layout(struct Gpt2 *model, struct Arena *arena, size_t B, size_t T, bool training) {
  const struct Config *config = &model->config;
  struct Workers *workers = &model->workers;
  size_t mark = arena->used;
  model->B = B;
  model->T = T;
  model->count = gpt2_count(config);

  model->params = parameters_alloc(config, arena, config->L);
  model->plan.parameters = arena_since(arena, &mark);
  if (training) {
    model->grads = parameters_alloc(config, arena, model->update_in_backward ? 1 : config->L);
    const struct Border *own = cut_own(model);
    model->total = model->adds_apart ? floats(arena, own[1].floats - own[0].floats, 1) : NULL;
    model->plan.gradients = arena_since(arena, &mark);
    model->moments.m = arena_alloc(arena, own[1].m - own[0].m, 1);
    model->moments.v = arena_alloc(arena, own[1].v - own[0].v, 1);
    model->plan.optimizer = arena_since(arena, &mark);
  }
  all_activations_alloc(model, arena, training);
  model->plan.activations = arena_since(arena, &mark);

  workers->dtype = model->dtype;
  const size_t rows = size_max(size_product(B, T), model->eval.B * model->eval.T);
  if (model->dtype == BF16 && B > 0) workers->sums = floats(arena, rows, 4 * config->C);
  if (training && model->optimizer == MUON) {
    model->muon = muon_scratch(arena, model->kernels, (size_t)pool_threads(workers->pool), config->C);
  }
  workers->own_floats = model->kernels->own_floats(size_max(T, config->maxT), config->C / config->NH);
  const size_t largest = size_max(size_max(rows, 4 * config->C), config->Vp);
  workers->shared = floats(arena, model->kernels->shared_floats(largest), 1);
  workers->own = floats(arena, (size_t)pool_threads(workers->pool), workers->own_floats);
  model->plan.scratch = arena_since(arena, &mark);
}

/* Numbers for every parameter of so many blocks, stored like moments of the type; ADAMW: of all of
 * them, else of those with second moments. Returns the end of them. */
static char *touch_parameters(const struct Gpt2 *model, void *first, size_t blocks, enum MomentsType type,
                              enum Optimizer optimizer) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  char *at = first;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (optimizer_is_muon(optimizer, &tensors[i])) continue;
    const size_t bytes = moments_bytes(type, gpt2_tensor_count(&tensors[i], 1));
    for (size_t l = 0; l < (tensors[i].place == BLOCK ? blocks : 1); l++, at += bytes) {
      pool_zero(model->workers.pool, at, bytes);
    }
  }
  return at;
}

void gpt2_first_touch(const struct Gpt2 *model, const struct Arena *arena) {
  char *rest = touch_parameters(model, model->params.first, model->params.blocks, MOMENTS_FP32, ADAMW);
  if (model->grads.first != NULL) {
    rest = touch_parameters(model, model->grads.first, model->grads.blocks, MOMENTS_FP32, ADAMW);
    if (model->ranks <= 1 && !model->adds_apart) {
      touch_parameters(model, model->moments.m, model->config.L, model->moments.type, ADAMW);
      rest = touch_parameters(model, model->moments.v, model->config.L, model->moments.type, model->optimizer);
    }
  }
  const struct Workers *w = &model->workers;
  char *own = (char *)w->own, *behind = (char *)(w->own + (size_t)pool_threads(w->pool) * w->own_floats);
  pool_zero(w->pool, rest, (size_t)(own - rest));
  pool_zero(w->pool, own, (size_t)(behind - own));  // equal parts: each thread's are its own
  pool_zero(w->pool, behind, (size_t)(arena->base + arena->size - behind));
}
