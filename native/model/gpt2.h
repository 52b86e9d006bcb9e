/* GPT-2: its tensors, its memory, and the three things done with it. Radford et al. 2019.
 *
 * B batch, T time, C channels, V vocabulary, Vp padded vocabulary, L layers, NH heads, maxT context.
 */
#ifndef LLMC_GPT2_H
#define LLMC_GPT2_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "kernels/kernels.h"
#include "model/muon.h"

struct Config {
  size_t maxT, V, Vp, L, NH, C;
};

/* The largest dimensions: far beyond any GPT-2, and the product of any two fits into 64 bits. A file that claims more
 * is damaged. llmc/model.py has the same in LARGEST. */
enum { MOST_LAYERS = 1 << 12, MOST_HEADS = 1 << 20, MOST_CHANNELS = 1 << 20, MOST_CONTEXT = 1 << 24, MOST_VOCAB = 1 << 24 };

/* The parameters, declared once: name, kind, where, rows, columns; those of a BLOCK are there L times. In
 * memory and in a checkpoint they follow each other in this order, nothing between. Weight decay is for
 * matrices. */
#define GPT2_TENSORS(X)                \
  X(wte, MATRIX, MODEL, Vp, C)         \
  X(wpe, MATRIX, MODEL, maxT, C)       \
  X(ln1w, VECTOR, BLOCK, 1, C)         \
  X(ln1b, VECTOR, BLOCK, 1, C)         \
  X(qkvw, MATRIX, BLOCK, 3 * C, C)     \
  X(qkvb, VECTOR, BLOCK, 1, 3 * C)     \
  X(attprojw, MATRIX, BLOCK, C, C)     \
  X(attprojb, VECTOR, BLOCK, 1, C)     \
  X(ln2w, VECTOR, BLOCK, 1, C)         \
  X(ln2b, VECTOR, BLOCK, 1, C)         \
  X(fcw, MATRIX, BLOCK, 4 * C, C)      \
  X(fcb, VECTOR, BLOCK, 1, 4 * C)      \
  X(fcprojw, MATRIX, BLOCK, C, 4 * C)  \
  X(fcprojb, VECTOR, BLOCK, 1, C)      \
  X(lnfw, VECTOR, MODEL, 1, C)         \
  X(lnfb, VECTOR, MODEL, 1, C)

enum TensorKind { VECTOR, MATRIX };
enum TensorPlace { MODEL, BLOCK };

struct Tensor {
  const char *name;
  enum TensorKind kind;
  enum TensorPlace place;
  size_t rows, columns;
};

enum { GPT2_TENSOR_COUNT = 0
#define X(...) + 1
       GPT2_TENSORS(X)
#undef X
};

/* What makes an update of a gradient. Muon is for the hidden matrices, which are those of the blocks, and AdamW is for
 * the other tensors. */
enum Optimizer { ADAMW, MUON };

static const char *const OPTIMIZER_NAMES[] = {"adamw", "muon", NULL};
static inline const char *optimizer_name(enum Optimizer optimizer) { return OPTIMIZER_NAMES[optimizer]; }

/* Whether Muon updates the tensor: it has a momentum, m, and no second moment, v. */
static inline bool optimizer_is_muon(enum Optimizer optimizer, const struct Tensor *tensor) {
  return optimizer == MUON && tensor->kind == MATRIX && tensor->place == BLOCK;
}

/* A number for every parameter: one pointer per tensor, block l of ln1w being ln1w + l * C. */
struct Parameters {
  float *first;   // all of them, in order
  size_t blocks;  // L, or 1: those of the block in hand
  union {         // by number, and by name
    float *tensors[GPT2_TENSOR_COUNT];
    struct {
#define X(name, ...) float *name;
      GPT2_TENSORS(X)
#undef X
    };
  };
};

/* The same for weights that are only multiplied, of any type. */
union Gpt2Weights {
  struct Weights tensors[GPT2_TENSOR_COUNT];
  struct {
#define X(name, ...) struct Weights name;
    GPT2_TENSORS(X)
#undef X
  };
};

/* What forward keeps for backward. BT = B * T rows; K = L layers, or 1 with `recompute`: the layer in
 * hand. What linear layers and attention read is stored in the type that they multiply. */
struct Activations {
  float *encoded;               // (BT, C)
  struct Array ln1;             // (K, BT, C)
  float *ln1_mean, *ln1_rstd;   // (K, BT)
  struct Array qkv;             // (K, BT, 3C)
  float *lse;                   // (K, B, NH, T)
  struct Array att;             // (K, BT, C)
  float *residual2;             // (K, BT, C)  after attention
  struct Array ln2;             // (K, BT, C)
  float *ln2_mean, *ln2_rstd;   // (K, BT)
  struct Array fch_gelu, fch_slope;  // (K, BT, 4C)  GELU, and its derivative there
  float *residual3;             // (L, BT, C)  after the feed-forward part
  struct Array lnf;             // (BT, C)
  float *lnf_mean, *lnf_rstd;   // (BT)
  float *logits;                // (gpt2_head_rows, Vp)  a chunk of rows, then its gradient
  float *losses;                // (BT)
  int *counted;                 // (BT)  the targets that count, one after the other
};

/* What backward works in; one layer's worth, used again by the next. */
struct ActivationGradients {
  float *residual;  // (BT, C)   flows from the loss to the embedding
  float *branch;    // (BT, C)   of a layernorm's output, or of attention's
  float *qkv;       // (BT, 3C)
  float *fch;       // (BT, 4C)
};

/* Bytes of each part of the arena, for the plan that is printed before it is taken. */
struct MemoryPlan {
  size_t parameters, gradients, optimizer, activations, scratch;
};

/* A forward pass without a backward pass, of another shape, as in validation. It uses the memory of the training
 * batch's activations. */
struct EvalPass {
  size_t B, T;  // 0: none
  struct Activations acts;
};

/* Dropout of the training steps; validation has none. */
struct DropoutState {
  double rate;          // 0: nothing is dropped
  uint64_t seed, step;  // of the run, and the number of its update: set by who asks for gradients
  size_t part;          // of the update's batch; set by gpt2_gradients, like `on`
  bool on;
};

/* A place in the parameters where the run of a rank begins: what is in front of it. */
struct Border {
  size_t piece, floats;  // pieces (pieces.h); parameters
  size_t m, v;           // bytes of the moments
};

struct Gpt2 {
  struct Config config;
  size_t B, T;
  struct EvalPass eval;           // its B and T are set before the layout
  enum Dtype dtype;               // of the activations that allow it, and what linear layers multiply
  bool recompute;                 // a layer's activations are computed again when backward needs them
  struct DropoutState dropout;
  bool update_in_backward;        // each block's gradients are used up as they are done, nobody keeps them
  size_t count;                   // number of parameters, padding included
  const struct Kernels *kernels;
  struct Workers workers;
  struct Parameters params, grads;
  enum Optimizer optimizer;
  struct Moments moments;         // of each block's tensors one after the other, as in params
  size_t rank, ranks;             // which of the ranks that divide the moments this is; 0 ranks: alone
  struct Border own[2];           // where the run begins and ends whose moments are here
  bool adds_apart;                // gradients are added up in `total`
  float *total;                   // (own) with adds_apart
  struct MuonScratch muon;
  struct Activations acts;
  struct ActivationGradients dacts;
  struct MemoryPlan plan;
};

/* Rows of logits at a time: (B·T, V) is never stored. */
static inline size_t gpt2_head_rows(const struct Gpt2 *model) {
  const size_t wanted = model->dtype == BF16 ? model->kernels->logits_rows : 0;
  return wanted > 0 ? wanted : 256;
}

/* Fills in the shapes of the tensors, in order. */
void gpt2_tensors(const struct Config *config, struct Tensor tensors[GPT2_TENSOR_COUNT]);

/* A tensor's numbers in a set of parameters that holds so many blocks. */
size_t gpt2_tensor_count(const struct Tensor *tensor, size_t blocks);

/* The number of parameters, padding included. Dies when it does not fit in memory. */
size_t gpt2_count(const struct Config *config);

/* Bytes of the first moments, or Muon's momentum, of all parameters. */
size_t gpt2_m_bytes(const struct Config *config, enum MomentsType type);

/* Bytes of the second moments: with Muon, of the tensors that AdamW updates. */
size_t gpt2_v_bytes(const struct Config *config, enum MomentsType type, enum Optimizer optimizer);

/* Lays the model out in the arena (see arena.h: called twice); config, kernels, dtype, recompute, optimizer,
 * moments.type, rank, ranks, adds_apart and the pool are set before. B = 0 is for decoding only; without `training` there
 * are no gradients and no optimizer state. */
void gpt2_layout(struct Gpt2 *model, struct Arena *arena, size_t B, size_t T, bool training);

/* Fills the arena with zero, after the model has been laid out in it: each thread the part of every tensor
 * that it will update, so that the pages lie where they are used. */
void gpt2_first_touch(const struct Gpt2 *model, const struct Arena *arena);

/* The tensors of block l among `all`; those of the whole model stay what they are. */
struct Parameters gpt2_block_parameters(const struct Gpt2 *model, struct Parameters all, size_t l);

/* The activations of block l; with recompute, those of the block in hand. */
struct Activations gpt2_block_activations(const struct Gpt2 *model, size_t l);

/* The model in the shape of its `eval`, for gpt2_loss, which overwrites the activations of the last training batch. */
struct Gpt2 gpt2_eval_model(const struct Gpt2 *model);

/* The mean loss of predicting targets (B, T) from tokens (B, T), both below V. Each one's is in acts.losses. A target that
 * is -1 does not count: its loss is 0, and the mean is over the others. */
double gpt2_loss(struct Gpt2 *model, const int *tokens, const int *targets);

/* A batch may be too large for the activations: it is then cut into `count` parts of (B, T), of which this
 * is number `at`. `counted` of the whole's targets are not -1. The gradient of the whole is the mean of theirs. A part
 * that `adds` is added to the gradients that are there. */
struct BatchPart {
  size_t at, count, counted;
  bool adds;
};

/* A batch as a whole, of which these are the targets (B, T). */
struct BatchPart gpt2_whole(const struct Gpt2 *model, const int *targets);

/* The sum of a part's losses over the mean number of targets that count in a part, and its part of the batch's gradient in
 * model->grads. Not for a model with update_in_backward. */
double gpt2_gradients(struct Gpt2 *model, const int *tokens, const int *targets, struct BatchPart part);

struct UpdateConfig {
  double lr, beta1, beta2, eps, weight_decay;
  double max_norm;  // the gradient is scaled down to this global norm; 0: as it is
  uint64_t seed;    // of the rounding of moments that are not fp32
};

/* The optimizer's step number `step`, counted from 1, by the gradient in model->grads, which Muon overwrites. Returns
 * the global L2 norm that it had. */
double gpt2_update(struct Gpt2 *model, const struct UpdateConfig *update, size_t step);

/* gpt2_gradients of a whole batch and gpt2_update in one, with the same bits, for a model with update_in_backward:
 * the gradients take one block's room instead of all; the whole of them is never there at once, so max_norm must
 * be 0. Returns the loss before the update and the norm. */
struct StepResult { double loss, norm; };
struct StepResult gpt2_step(struct Gpt2 *model, const int *tokens, const int *targets,
                            const struct UpdateConfig *update, size_t step);

#endif
