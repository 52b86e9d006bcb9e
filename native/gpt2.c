/* GPT-2 from the tokens to the loss, back to the gradients, and one step of AdamW.
 *
 * Every line that computes calls an operation of kernels.h; backward is forward read upwards.
 */
#include "gpt2.h"

#include <math.h>

#include "pool.h"
#include "util.h"

/* ---- memory ------------------------------------------------------------------------------------- */

void gpt2_tensors(const struct Config *config, struct Tensor tensors[GPT2_TENSOR_COUNT]) {
  const size_t maxT = config->maxT, Vp = config->Vp, L = config->L, C = config->C;
  const struct Tensor list[] = {
#define X(name, kind, layers, rows, columns) {#name, kind, layers, rows, columns},
      GPT2_TENSORS(X)
#undef X
  };
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) tensors[i] = list[i];
}

static size_t tensor_count(const struct Tensor *tensor) {
  return size_product(size_product(tensor->layers, tensor->rows), tensor->columns);
}

size_t gpt2_count(const struct Config *config) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(config, tensors);
  size_t count = 0;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (__builtin_add_overflow(count, tensor_count(&tensors[i]), &count)) {
      die(EXIT_BAD_DATA, "the model's header asks for more parameters than can be addressed");
    }
  }
  return count;
}

static struct Parameters parameters_alloc(const struct Gpt2 *model, struct Arena *arena) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  struct Parameters parameters = {.first = arena_alloc(arena, model->count, sizeof(float))};
  if (parameters.first == NULL) return parameters;
  float *at = parameters.first;
  const struct Tensor *tensor = tensors;
#define X(name, ...) parameters.name = at, at += tensor_count(tensor++);
  GPT2_TENSORS(X)
#undef X
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

static void activations_alloc(struct Gpt2 *model, struct Arena *arena, bool training) {
  const struct Config *config = &model->config;
  const size_t BT = size_product(model->B, model->T), C = config->C, L = config->L;
  const size_t LBT = size_product(L, BT);
  struct Activations *acts = &model->acts;
  acts->encoded = floats(arena, BT, C);
  acts->ln1 = floats(arena, LBT, C);
  acts->ln1_mean = floats(arena, LBT, 1);
  acts->ln1_rstd = floats(arena, LBT, 1);
  acts->qkv = floats(arena, LBT, 3 * C);
  acts->lse = floats(arena, LBT, config->NH);
  acts->att = floats(arena, LBT, C);
  acts->residual2 = floats(arena, LBT, C);
  acts->ln2 = floats(arena, LBT, C);
  acts->ln2_mean = floats(arena, LBT, 1);
  acts->ln2_rstd = floats(arena, LBT, 1);
  acts->fch = floats(arena, LBT, 4 * C);
  acts->fch_gelu = floats(arena, LBT, 4 * C);
  acts->residual3 = floats(arena, LBT, C);
  acts->lnf = floats(arena, BT, C);
  acts->lnf_mean = floats(arena, BT, 1);
  acts->lnf_rstd = floats(arena, BT, 1);
  acts->logits = floats(arena, size_min(BT, HEAD_ROWS), config->Vp);
  acts->losses = floats(arena, BT, 1);
  if (training) {
    struct ActivationGradients *dacts = &model->dacts;
    dacts->residual = floats(arena, BT, C);
    dacts->branch = floats(arena, BT, C);
    dacts->qkv = floats(arena, BT, 3 * C);
    dacts->fch = floats(arena, BT, 4 * C);
  }
}

void gpt2_layout(struct Gpt2 *model, struct Arena *arena, size_t B, size_t T, bool training) {
  const struct Config *config = &model->config;
  struct Workers *workers = &model->workers;
  size_t mark = arena->used;
  model->B = B;
  model->T = T;
  model->count = gpt2_count(config);

  model->params = parameters_alloc(model, arena);
  model->plan.parameters = arena_since(arena, &mark);
  if (training) {
    model->grads = parameters_alloc(model, arena);
    model->plan.gradients = arena_since(arena, &mark);
    model->m = parameters_alloc(model, arena);
    model->v = parameters_alloc(model, arena);
    model->plan.optimizer = arena_since(arena, &mark);
  }
  if (B > 0) activations_alloc(model, arena, training);
  model->plan.activations = arena_since(arena, &mark);

  workers->own_floats = model->kernels->own_floats(size_max(T, config->maxT), config->C / config->NH);
  workers->shared = floats(arena, model->kernels->shared_floats, 1);
  workers->own = floats(arena, (size_t)pool_threads(workers->pool), workers->own_floats);
  model->plan.scratch = arena_since(arena, &mark);
}

/* ---- forward ------------------------------------------------------------------------------------ */

static void block_forward(struct Gpt2 *model, size_t l, const float *residual1) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Parameters *p = &model->params;
  const struct Activations *a = &model->acts;
  const size_t B = model->B, T = model->T, BT = B * T, C = model->config.C, NH = model->config.NH;

  k->layernorm_forward(w, a->ln1 + l * BT * C, a->ln1_mean + l * BT, a->ln1_rstd + l * BT,
                       residual1, p->ln1w + l * C, p->ln1b + l * C, BT, C);
  k->linear_forward(w, a->qkv + l * BT * 3 * C, a->ln1 + l * BT * C,
                    p->qkvw + l * 3 * C * C, p->qkvb + l * 3 * C, BT, 3 * C, C);
  k->attention_forward(w, a->att + l * BT * C, a->lse + l * BT * NH,
                       a->qkv + l * BT * 3 * C, B, T, C, NH);
  k->linear_residual(w, a->residual2 + l * BT * C, residual1, a->att + l * BT * C,
                     p->attprojw + l * C * C, p->attprojb + l * C, BT, C, C);

  k->layernorm_forward(w, a->ln2 + l * BT * C, a->ln2_mean + l * BT, a->ln2_rstd + l * BT,
                       a->residual2 + l * BT * C, p->ln2w + l * C, p->ln2b + l * C, BT, C);
  k->linear_gelu(w, a->fch_gelu + l * BT * 4 * C, a->fch + l * BT * 4 * C, a->ln2 + l * BT * C,
                 p->fcw + l * 4 * C * C, p->fcb + l * 4 * C, BT, 4 * C, C);
  k->linear_residual(w, a->residual3 + l * BT * C, a->residual2 + l * BT * C,
                     a->fch_gelu + l * BT * 4 * C,
                     p->fcprojw + l * C * 4 * C, p->fcprojb + l * C, BT, C, 4 * C);
}

/* The input of block l, which is the output of block l - 1: (B, T, C). */
static const float *block_input(const struct Gpt2 *model, size_t l) {
  const struct Activations *a = &model->acts;
  return l == 0 ? a->encoded : a->residual3 + (l - 1) * model->B * model->T * model->config.C;
}

/* From the last residual to the mean loss, HEAD_ROWS rows at a time. With `training`, each chunk of
 * logits turns into its gradient in place and is used up at once, for dlnf (in dacts.branch) and dwte. */
static double head(struct Gpt2 *model, const int *targets, bool training) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Activations *a = &model->acts;
  const size_t BT = model->B * model->T, C = model->config.C, V = model->config.V, Vp = model->config.Vp;

  k->layernorm_forward(w, a->lnf, a->lnf_mean, a->lnf_rstd, block_input(model, model->config.L),
                       model->params.lnfw, model->params.lnfb, BT, C);
  for (size_t row = 0; row < BT; row += HEAD_ROWS) {
    const size_t rows = size_min(HEAD_ROWS, BT - row);
    k->linear_forward(w, a->logits, a->lnf + row * C, model->params.wte, NULL, rows, Vp, C);
    k->crossentropy(w, a->losses + row, a->logits, targets + row, 1 / (float)BT, rows, V, Vp);
    if (training) {
      k->linear_backward_input(w, model->dacts.branch + row * C, a->logits, model->params.wte, rows, Vp, C);
      k->linear_backward_weight(w, model->grads.wte, NULL, a->logits, a->lnf + row * C, rows, Vp, C);
    }
  }
  double sum = 0;
  for (size_t row = 0; row < BT; row++) sum += (double)a->losses[row];
  return sum / (double)BT;
}

static void trunk_forward(struct Gpt2 *model, const int *tokens) {
  model->kernels->encoder_forward(&model->workers, model->acts.encoded, tokens, model->params.wte,
                                  model->params.wpe, model->B, model->T, model->config.C);
  for (size_t l = 0; l < model->config.L; l++) block_forward(model, l, block_input(model, l));
}

double gpt2_loss(struct Gpt2 *model, const int *tokens, const int *targets) {
  trunk_forward(model, tokens);
  return head(model, targets, false);
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* d->residual holds the gradient of the block's output and, afterwards, of its input: the two branches
 * only add to it. */
static void block_backward(struct Gpt2 *model, size_t l, const float *residual1) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Parameters *p = &model->params, *g = &model->grads;
  const struct Activations *a = &model->acts;
  const struct ActivationGradients *d = &model->dacts;
  const size_t B = model->B, T = model->T, BT = B * T, C = model->config.C, NH = model->config.NH;

  k->linear_backward_weight(w, g->fcprojw + l * C * 4 * C, g->fcprojb + l * C, d->residual,
                            a->fch_gelu + l * BT * 4 * C, BT, C, 4 * C);
  k->linear_backward_gelu(w, d->fch, d->residual, a->fch + l * BT * 4 * C,
                          p->fcprojw + l * C * 4 * C, BT, C, 4 * C);
  k->linear_backward_weight(w, g->fcw + l * 4 * C * C, g->fcb + l * 4 * C, d->fch,
                            a->ln2 + l * BT * C, BT, 4 * C, C);
  k->linear_backward_input(w, d->branch, d->fch, p->fcw + l * 4 * C * C, BT, 4 * C, C);
  k->layernorm_backward(w, d->residual, g->ln2w + l * C, g->ln2b + l * C, d->branch,
                        a->residual2 + l * BT * C, a->ln2_mean + l * BT, a->ln2_rstd + l * BT,
                        p->ln2w + l * C, BT, C);

  k->linear_backward_weight(w, g->attprojw + l * C * C, g->attprojb + l * C, d->residual,
                            a->att + l * BT * C, BT, C, C);
  k->linear_backward_input(w, d->branch, d->residual, p->attprojw + l * C * C, BT, C, C);
  k->attention_backward(w, d->qkv, d->branch, a->qkv + l * BT * 3 * C, a->att + l * BT * C,
                        a->lse + l * BT * NH, B, T, C, NH);
  k->linear_backward_weight(w, g->qkvw + l * 3 * C * C, g->qkvb + l * 3 * C, d->qkv,
                            a->ln1 + l * BT * C, BT, 3 * C, C);
  k->linear_backward_input(w, d->branch, d->qkv, p->qkvw + l * 3 * C * C, BT, 3 * C, C);
  k->layernorm_backward(w, d->residual, g->ln1w + l * C, g->ln1b + l * C, d->branch,
                        residual1, a->ln1_mean + l * BT, a->ln1_rstd + l * BT,
                        p->ln1w + l * C, BT, C);
}

double gpt2_gradients(struct Gpt2 *model, const int *tokens, const int *targets) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const size_t B = model->B, T = model->T, C = model->config.C;
  pool_zero(w->pool, model->grads.first, model->count * sizeof(float));
  pool_zero(w->pool, model->dacts.residual, B * T * C * sizeof(float));

  trunk_forward(model, tokens);
  double loss = head(model, targets, true);

  k->layernorm_backward(w, model->dacts.residual, model->grads.lnfw, model->grads.lnfb,
                        model->dacts.branch, block_input(model, model->config.L),
                        model->acts.lnf_mean, model->acts.lnf_rstd, model->params.lnfw, B * T, C);
  for (size_t l = model->config.L; l-- > 0;) block_backward(model, l, block_input(model, l));
  k->encoder_backward(w, model->grads.wte, model->grads.wpe, model->dacts.residual, tokens, B, T, C);
  return loss;
}

/* ---- update ------------------------------------------------------------------------------------- */

double gpt2_gradient_norm(struct Gpt2 *model) {
  return sqrt(model->kernels->sum_squares(&model->workers, model->grads.first, model->count));
}

void gpt2_update(struct Gpt2 *model, const struct UpdateConfig *update, size_t step) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  size_t at = 0;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    const size_t n = tensor_count(&tensors[i]);
    const struct AdamW adamw = {
        .lr = update->lr,
        .beta1 = update->beta1,
        .beta2 = update->beta2,
        .eps = update->eps,
        .weight_decay = tensors[i].kind == MATRIX ? update->weight_decay : 0,
        .correction1 = 1 - pow(update->beta1, (double)step),
        .correction2 = 1 - pow(update->beta2, (double)step),
    };
    model->kernels->adamw_update(&model->workers, model->params.first + at, model->m.first + at,
                                 model->v.first + at, model->grads.first + at, &adamw, n);
    at += n;
  }
}
