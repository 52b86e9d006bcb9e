/* GPT-2 from the tokens to the loss, back to the gradients, and one step of the optimizer.
 *
 * Every line that computes calls an operation of kernels.h; backward is forward read upwards.
 */
#include "model/gpt2.h"

#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "base/util.h"
#include "model/counted.h"
#include "model/update.h"

/* ---- forward ------------------------------------------------------------------------------------ */

struct Parameters gpt2_block_parameters(const struct Gpt2 *model, struct Parameters all, size_t l) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (tensors[i].place == BLOCK) all.tensors[i] += l % all.blocks * gpt2_tensor_count(&tensors[i], 1);
  }
  return all;
}

struct Activations gpt2_block_activations(const struct Gpt2 *model, size_t l) {
  const size_t BT = model->B * model->T, C = model->config.C, NH = model->config.NH;
  struct Activations a = model->acts;
  a.residual3 += l * BT * C;
  const size_t at = model->recompute ? 0 : l * BT;
  a.ln1 = array_at(a.ln1, at * C), a.ln1_mean += at, a.ln1_rstd += at;
  a.qkv = array_at(a.qkv, at * 3 * C), a.lse += at * NH, a.att = array_at(a.att, at * C);
  a.residual2 += at * C;
  a.ln2 = array_at(a.ln2, at * C), a.ln2_mean += at, a.ln2_rstd += at;
  a.fch_gelu = array_at(a.fch_gelu, at * 4 * C), a.fch_slope = array_at(a.fch_slope, at * 4 * C);
  return a;
}

/* Where numbers are dropped, as in GPT-2. */
enum DropoutPlace { DROPOUT_EMBEDDING, DROPOUT_ATTPROJ, DROPOUT_FCPROJ, DROPOUT_ATTENTION };

/* Of a place in block l, the embedding's being in block 0. Its rows, in attention the heads of all sequences, count
 * through the update, whatever parts that has. */
static struct Dropout dropout_at(const struct Gpt2 *model, enum DropoutPlace place, size_t l) {
  const struct DropoutState *d = &model->dropout;
  const uint64_t update = mix64(mix64(d->seed) + d->step);
  const size_t rows = model->B * (place == DROPOUT_ATTENTION ? model->config.NH : model->T);
  return dropout_of(d->on ? d->rate : 0, mix64(mix64(update + l) + place), d->part * rows);
}

/* out (BT, C) = residual + dropout(inp), without the residual where it is NULL. */
static void drop(const struct Gpt2 *model, float *out, const float *inp, const float *residual, struct Dropout dropout) {
  model->kernels->dropout(&model->workers, (struct DropoutRows){.N = model->B * model->T, .C = model->config.C,
      .out = out, .inp = inp, .residual = residual, .dropout = dropout});
}

/* The end of a branch: out = residual + dropout(inp · weightᵀ + bias). */
static void add_branch(const struct Gpt2 *model, struct Linear a, struct Dropout dropout) {
  if (dropout.below == 0) {
    model->kernels->linear_residual(&model->workers, a);
  } else {
    model->kernels->linear_forward(&model->workers, a);
    drop(model, a.out.data, a.out.data, a.residual, dropout);
  }
}

/* The gradient of what a branch's last product makes; `own` (BT, C) is where it may be written. */
static const float *branch_gradient(const struct Gpt2 *model, float *own, struct Dropout dropout) {
  if (dropout.below == 0) return model->dacts.residual;
  drop(model, own, model->dacts.residual, NULL, dropout);
  return own;
}

/* The sum of the embeddings, or its gradient, in place. */
static void embedding_dropout(const struct Gpt2 *model, float *x) {
  const struct Dropout dropout = dropout_at(model, DROPOUT_EMBEDDING, 0);
  if (dropout.below > 0) drop(model, x, x, NULL, dropout);
}

/* All that backward needs of block l: everything up to its last product. */
static void block_before_last(struct Gpt2 *model, size_t l, const float *residual1) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Parameters p = gpt2_block_parameters(model, model->params, l);
  const struct Activations a = gpt2_block_activations(model, l);
  const size_t B = model->B, T = model->T, BT = B * T, C = model->config.C;

  k->layernorm_forward(w, (struct LayerNormForward){.N = BT, .C = C,
      .out = a.ln1, .mean = a.ln1_mean, .rstd = a.ln1_rstd, .inp = residual1, .weight = p.ln1w, .bias = p.ln1b});
  k->linear_forward(w, (struct Linear){.M = BT, .N = 3 * C, .K = C,
      .out = a.qkv, .inp = view(a.ln1), .weight = p.qkvw, .bias = p.qkvb});
  k->attention_forward(w, (struct AttentionForward){.B = B, .T = T, .C = C, .NH = model->config.NH,
      .out = a.att, .lse = a.lse, .qkv = view(a.qkv), .dropout = dropout_at(model, DROPOUT_ATTENTION, l)});
  add_branch(model, (struct Linear){.M = BT, .N = C, .K = C,
      .out = array_of(a.residual2), .residual = residual1, .inp = view(a.att), .weight = p.attprojw,
      .bias = p.attprojb}, dropout_at(model, DROPOUT_ATTPROJ, l));

  k->layernorm_forward(w, (struct LayerNormForward){.N = BT, .C = C,
      .out = a.ln2, .mean = a.ln2_mean, .rstd = a.ln2_rstd, .inp = a.residual2, .weight = p.ln2w, .bias = p.ln2b});
  k->linear_gelu(w, (struct Linear){.M = BT, .N = 4 * C, .K = C,
      .out = a.fch_gelu, .slope = a.fch_slope, .inp = view(a.ln2), .weight = p.fcw, .bias = p.fcb});
}

static void block_forward(struct Gpt2 *model, size_t l, const float *residual1) {
  const struct Parameters p = gpt2_block_parameters(model, model->params, l);
  const struct Activations a = gpt2_block_activations(model, l);
  const size_t BT = model->B * model->T, C = model->config.C;
  block_before_last(model, l, residual1);
  add_branch(model, (struct Linear){.M = BT, .N = C, .K = 4 * C,
      .out = array_of(a.residual3), .residual = a.residual2, .inp = view(a.fch_gelu), .weight = p.fcprojw,
      .bias = p.fcprojb}, dropout_at(model, DROPOUT_FCPROJ, l));
}

/* The input of block l, which is the output of block l - 1: (B, T, C). */
static const float *block_input(const struct Gpt2 *model, size_t l) {
  const struct Activations *a = &model->acts;
  return l == 0 ? a->encoded : a->residual3 + (l - 1) * model->B * model->T * model->config.C;
}

/* From the last residual to the mean loss, over the rows that count, gpt2_head_rows at a time. With `training`, each chunk
 * of logits turns into its gradient in place and is used up at once, for dlnf (in dacts.branch) and dwte. */
static double head(struct Gpt2 *model, const int *targets, bool training, struct BatchPart part) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Activations *a = &model->acts;
  const size_t BT = model->B * model->T, C = model->config.C, V = model->config.V, Vp = model->config.Vp;

  k->layernorm_forward(w, (struct LayerNormForward){.N = BT, .C = C,
      .out = a->lnf, .mean = a->lnf_mean, .rstd = a->lnf_rstd, .inp = block_input(model, model->config.L),
      .weight = model->params.lnfw, .bias = model->params.lnfb});
  const size_t N = counted_pack(a->lnf, C, targets, a->counted, BT), chunk = gpt2_head_rows(model);
  for (size_t row = 0; row < N; row += chunk) {
    const size_t rows = size_min(chunk, N - row);
    const struct ArrayView lnf = view(array_at(a->lnf, row * C));
    k->linear_forward(w, (struct Linear){.M = rows, .N = Vp, .K = C,
        .out = array_of(a->logits), .inp = lnf, .weight = model->params.wte});
    k->crossentropy(w, a->losses + row, a->logits, a->counted + row, 1 / (float)part.counted, rows, V, Vp);
    if (training) {
      k->linear_backward_input(w, model->dacts.branch + row * C, a->logits, model->params.wte, rows, Vp, C);
      k->linear_backward_weight(w, (struct LinearBackwardWeight){.M = rows, .N = Vp, .K = C,
          .dweight = model->grads.wte, .dout = a->logits, .inp = lnf, .add = row > 0 || part.adds});
    }
  }
  counted_unpack(a->losses, 1, targets, BT);
  if (training) counted_unpack(model->dacts.branch, C, targets, BT);
  double sum = 0;
  for (size_t row = 0; row < BT; row++) sum += (double)a->losses[row];
  return sum / ((double)part.counted / (double)part.count);
}

static void trunk_forward(struct Gpt2 *model, const int *tokens) {
  model->kernels->encoder_forward(&model->workers, model->acts.encoded, tokens, model->params.wte,
                                  model->params.wpe, model->B, model->T, model->config.C);
  embedding_dropout(model, model->acts.encoded);
  for (size_t l = 0; l < model->config.L; l++) block_forward(model, l, block_input(model, l));
}

struct BatchPart gpt2_whole(const struct Gpt2 *model, const int *targets) {
  size_t counted = 0;
  for (size_t i = 0; i < model->B * model->T; i++) counted += targets[i] >= 0;
  return (struct BatchPart){.count = 1, .counted = size_max(counted, 1)};
}

double gpt2_loss(struct Gpt2 *model, const int *tokens, const int *targets) {
  trunk_forward(model, tokens);
  return head(model, targets, false, gpt2_whole(model, targets));
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* A layernorm adds its rows up; what linear layers write is written whole. */
static void zeros_for_layernorm(float *dweight, float *dbias, size_t C) {
  memset(dweight, 0, C * sizeof(float));
  memset(dbias, 0, C * sizeof(float));
}

/* d->residual holds the gradient of the block's output and, afterwards, of its input: the two branches
 * only add to it. */
static void block_backward(struct Gpt2 *model, size_t l, const float *residual1, const bool add) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Parameters p = gpt2_block_parameters(model, model->params, l);
  const struct Parameters g = gpt2_block_parameters(model, model->grads, l);
  const struct Activations a = gpt2_block_activations(model, l);
  const struct ActivationGradients *d = &model->dacts;
  const size_t B = model->B, T = model->T, BT = B * T, C = model->config.C;
  if (!add) {
    zeros_for_layernorm(g.ln1w, g.ln1b, C);
    zeros_for_layernorm(g.ln2w, g.ln2b, C);
  }

  const float *dfcproj = branch_gradient(model, d->branch, dropout_at(model, DROPOUT_FCPROJ, l));
  k->linear_backward_weight(w, (struct LinearBackwardWeight){.M = BT, .N = C, .K = 4 * C,
      .dweight = g.fcprojw, .dbias = g.fcprojb, .dout = dfcproj, .inp = view(a.fch_gelu), .add = add});
  k->linear_backward_gelu(w, d->fch, dfcproj, view(a.fch_slope), p.fcprojw, BT, C, 4 * C);
  k->linear_backward_weight(w, (struct LinearBackwardWeight){.M = BT, .N = 4 * C, .K = C,
      .dweight = g.fcw, .dbias = g.fcb, .dout = d->fch, .inp = view(a.ln2), .add = add});
  k->linear_backward_input(w, d->branch, d->fch, p.fcw, BT, 4 * C, C);
  k->layernorm_backward(w, (struct LayerNormBackward){.N = BT, .C = C,
      .dinp = d->residual, .dweight = g.ln2w, .dbias = g.ln2b, .dout = d->branch, .inp = a.residual2,
      .mean = a.ln2_mean, .rstd = a.ln2_rstd, .weight = p.ln2w});

  const float *dattproj = branch_gradient(model, d->fch, dropout_at(model, DROPOUT_ATTPROJ, l));
  k->linear_backward_weight(w, (struct LinearBackwardWeight){.M = BT, .N = C, .K = C,
      .dweight = g.attprojw, .dbias = g.attprojb, .dout = dattproj, .inp = view(a.att), .add = add});
  k->linear_backward_input(w, d->branch, dattproj, p.attprojw, BT, C, C);
  k->attention_backward(w, (struct AttentionBackward){.B = B, .T = T, .C = C, .NH = model->config.NH,
      .dqkv = d->qkv, .dout = d->branch, .qkv = view(a.qkv), .out = view(a.att), .lse = a.lse,
      .dropout = dropout_at(model, DROPOUT_ATTENTION, l)});
  k->linear_backward_weight(w, (struct LinearBackwardWeight){.M = BT, .N = 3 * C, .K = C,
      .dweight = g.qkvw, .dbias = g.qkvb, .dout = d->qkv, .inp = view(a.ln1), .add = add});
  k->linear_backward_input(w, d->branch, d->qkv, p.qkvw, BT, 3 * C, C);
  k->layernorm_backward(w, (struct LayerNormBackward){.N = BT, .C = C,
      .dinp = d->residual, .dweight = g.ln1w, .dbias = g.ln1b, .dout = d->branch, .inp = residual1,
      .mean = a.ln1_mean, .rstd = a.ln1_rstd, .weight = p.ln1w});
}

/* ---- a step ------------------------------------------------------------------------------------- */

/* With an update, each block's parameters change as soon as its gradients are there: nothing above it reads
 * them any more. *squares collects the sum of the squares of what was used up. */
static double backward(struct Gpt2 *model, const int *tokens, const int *targets, struct BatchPart part,
                       const struct UpdateConfig *update, size_t step, double *squares) {
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const size_t B = model->B, T = model->T, C = model->config.C, L = model->config.L;
  model->dropout.on = true, model->dropout.part = part.at;
  trunk_forward(model, tokens);
  const double loss = head(model, targets, true, part);
  const bool add = part.adds;

  if (!add) zeros_for_layernorm(model->grads.lnfw, model->grads.lnfb, C);
  pool_zero(w->pool, model->dacts.residual, B * T * C * sizeof(float));
  k->layernorm_backward(w, (struct LayerNormBackward){.N = B * T, .C = C,
      .dinp = model->dacts.residual, .dweight = model->grads.lnfw, .dbias = model->grads.lnfb,
      .dout = model->dacts.branch, .inp = block_input(model, L), .mean = model->acts.lnf_mean,
      .rstd = model->acts.lnf_rstd, .weight = model->params.lnfw});
  for (size_t l = L; l-- > 0;) {
    /* The last block's are still there. */
    if (model->recompute && l + 1 < L) block_before_last(model, l, block_input(model, l));
    block_backward(model, l, block_input(model, l), add);
    if (update != NULL) *squares += update_tensors(model, update, step, 1, BLOCK, l);
  }
  if (!add) pool_zero(w->pool, model->grads.wpe, model->config.maxT * C * sizeof(float));
  embedding_dropout(model, model->dacts.residual);
  k->encoder_backward(w, model->grads.wte, model->grads.wpe, model->dacts.residual, tokens, B, T, C);
  if (update != NULL) *squares += update_tensors(model, update, step, 1, MODEL, 0);
  model->dropout.on = false;
  return loss;
}

double gpt2_gradients(struct Gpt2 *model, const int *tokens, const int *targets, struct BatchPart part) {
  return backward(model, tokens, targets, part, NULL, 0, NULL);
}

struct StepResult gpt2_step(struct Gpt2 *model, const int *tokens, const int *targets,
                            const struct UpdateConfig *update, size_t step) {
  double squares = 0;
  const double loss = backward(model, tokens, targets, gpt2_whole(model, targets), update, step, &squares);
  return (struct StepResult){loss, sqrt(squares)};
}
