#include "model/update.h"

#include <math.h>

#include "base/util.h"
#include "model/pieces.h"

/* What is updated at once: a tensor, one block's part of it, or a piece of that. */
struct Updated {
  const struct Tensor *tensor;
  float *params, *grads;
  struct Moments moments;
  uint64_t key;
  size_t first, n;  // numbers of the tensor in front of it, and in it
};

static uint64_t key_of(const struct UpdateConfig *update, size_t step, size_t tensor_m) {
  return mix64(mix64(mix64(update->seed) + step) + tensor_m);
}

/* Matrices whose momentum is ready. */
struct Ready {
  struct MuonMatrix matrices[64];
  size_t count;
};

static void muon_ready(struct Gpt2 *model, const struct UpdateConfig *update, struct Ready *ready) {
  if (ready->count == 0) return;
  muon_step(model->kernels, &model->workers, model->muon, update->lr, update->weight_decay, ready->matrices, ready->count);
  ready->count = 0;
}

static double muon_part(struct Gpt2 *model, const struct UpdateConfig *update, double scale, const struct Updated *u,
                        struct Ready *ready) {
  const size_t rows = u->tensor->rows, columns = u->tensor->columns, C = model->config.C;
  const size_t count = rows == 3 * C ? 3 : 1;  // qkvw is three matrices
  const double squares = muon_momentum(model->kernels, &model->workers, u->moments, u->grads, scale, u->key,
                                       rows * columns);
  if (ready->count + count > sizeof ready->matrices / sizeof *ready->matrices) muon_ready(model, update, ready);
  for (size_t i = 0, each = rows / count * columns; i < count; i++) {
    ready->matrices[ready->count++] = (struct MuonMatrix){u->params + i * each, u->grads + i * each, rows / count, columns};
  }
  return squares;
}

static double adamw_part(struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double scale,
                         const struct Updated *u) {
  const struct AdamW adamw = {.lr = update->lr, .beta1 = update->beta1, .beta2 = update->beta2, .eps = update->eps,
                              .weight_decay = u->tensor->kind == MATRIX ? update->weight_decay : 0,
                              .correction1 = 1 - pow(update->beta1, (double)step),
                              .correction2 = 1 - pow(update->beta2, (double)step), .scale = scale, .key = u->key,
                              .first = u->first};
  return model->kernels->adamw_update(&model->workers, u->params, u->moments, u->grads, &adamw, u->n);
}

/* update_tensors, but for the matrices that it leaves in `ready`. */
static double update_into(struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double scale,
                          enum TensorPlace place, size_t l, struct Ready *ready) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  double squares = 0;
  size_t p = 0, g = 0, m = 0, v = 0;  // in front of the tensor: numbers of params and grads, bytes of moments
  for (const struct Tensor *tensor = tensors; tensor < tensors + GPT2_TENSOR_COUNT; tensor++) {
    const size_t n = gpt2_tensor_count(tensor, 1), bytes = moments_bytes(model->moments.type, n);
    const size_t blocks = tensor->place == BLOCK ? model->config.L : 1, kept = size_min(blocks, model->grads.blocks);
    const bool muon = optimizer_is_muon(model->optimizer, tensor);
    if (tensor->place == place) {
      const size_t own = m + l * bytes;
      const struct Updated u = {
          .tensor = tensor, .params = model->params.first + p + l * n, .grads = model->grads.first + g + l % kept * n,
          .moments = {model->moments.type, model->moments.m + own, muon ? NULL : model->moments.v + v + l * bytes},
          .key = key_of(update, step, own), .n = n};
      squares += muon ? muon_part(model, update, scale, &u, ready) : adamw_part(model, update, step, scale, &u);
    }
    p += blocks * n, g += kept * n, m += blocks * bytes;
    if (!muon) v += blocks * bytes;
  }
  return squares;
}

double update_tensors(struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double scale,
                      enum TensorPlace place, size_t l) {
  struct Ready ready = {.count = 0};
  const double squares = update_into(model, update, step, scale, place, l, &ready);
  muon_ready(model, update, &ready);
  return squares;
}

double update_clip(double norm, double most) { return most == 0 ? 1 : fmin(1, most / (norm + 1e-6)); }

double update_norm(const struct Gpt2 *model) {
  return sqrt(model->kernels->sum_squares(&model->workers, model->grads.first, model->count));
}

double gpt2_update(struct Gpt2 *model, const struct UpdateConfig *update, size_t step) {
  const double scale = update->max_norm == 0 ? 1 : update_clip(update_norm(model), update->max_norm);
  double squares = 0;
  struct Ready ready = {.count = 0};
  for (size_t l = model->config.L; l-- > 0;) squares += update_into(model, update, step, scale, BLOCK, l, &ready);
  squares += update_into(model, update, step, scale, MODEL, 0, &ready);
  muon_ready(model, update, &ready);
  return sqrt(squares);
}

/* ---- pieces ------------------------------------------------------------------------------------- */

static bool is_own(const struct Gpt2 *model, const struct Piece *piece) {
  return model->own[0].piece <= piece->number && piece->number < model->own[1].piece;
}

/* The complete gradient of an own piece. */
static float *gradient_of(const struct Gpt2 *model, const struct Piece *piece) {
  if (model->total != NULL) return model->total + (piece->at.floats - model->own[0].floats);
  return model->grads.first + piece->at.floats;
}

void update_squares(const struct Gpt2 *model, double *squares) {
  struct Pieces pieces = pieces_of(&model->config, model->moments.type, model->optimizer);
  for (struct Piece piece; pieces_next(&pieces, &piece);) {
    if (!is_own(model, &piece)) continue;
    squares[piece.number] = model->kernels->sum_squares(&model->workers, gradient_of(model, &piece), piece.n);
  }
}

void update_own(struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double scale) {
  struct Ready ready = {.count = 0};
  struct Pieces pieces = pieces_of(&model->config, model->moments.type, model->optimizer);
  for (struct Piece piece; pieces_next(&pieces, &piece);) {
    if (!is_own(model, &piece)) continue;
    const struct Moments moments = {model->moments.type, model->moments.m + (piece.at.m - model->own[0].m),
                                    piece.muon ? NULL : model->moments.v + (piece.at.v - model->own[0].v)};
    const struct Updated u = {.tensor = piece.tensor, .params = model->params.first + piece.at.floats,
                              .grads = gradient_of(model, &piece), .moments = moments,
                              .key = key_of(update, step, piece.tensor_m), .first = piece.first, .n = piece.n};
    if (piece.muon) muon_part(model, update, scale, &u, &ready);
    else adamw_part(model, update, step, scale, &u);
  }
  muon_ready(model, update, &ready);
}
