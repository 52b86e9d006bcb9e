/* GPT-2: its tensors, its memory, and the three things done with it. Radford et al. 2019.
 *
 * B batch, T time, C channels, V vocabulary, Vp padded vocabulary, L layers, NH heads, maxT context.
 */
#ifndef LLMC_GPT2_H
#define LLMC_GPT2_H

#include <stdbool.h>
#include <stddef.h>

#include "arena.h"
#include "kernels.h"

struct Config {
  size_t maxT, V, Vp, L, NH, C;
};

/* The parameters, declared once: name, kind, layers, rows, columns. In memory and in a checkpoint they
 * follow each other in this order, nothing between. Weight decay is for matrices. */
#define GPT2_TENSORS(X)            \
  X(wte, MATRIX, 1, Vp, C)         \
  X(wpe, MATRIX, 1, maxT, C)       \
  X(ln1w, VECTOR, L, 1, C)         \
  X(ln1b, VECTOR, L, 1, C)         \
  X(qkvw, MATRIX, L, 3 * C, C)     \
  X(qkvb, VECTOR, L, 1, 3 * C)     \
  X(attprojw, MATRIX, L, C, C)     \
  X(attprojb, VECTOR, L, 1, C)     \
  X(ln2w, VECTOR, L, 1, C)         \
  X(ln2b, VECTOR, L, 1, C)         \
  X(fcw, MATRIX, L, 4 * C, C)      \
  X(fcb, VECTOR, L, 1, 4 * C)      \
  X(fcprojw, MATRIX, L, C, 4 * C)  \
  X(fcprojb, VECTOR, L, 1, C)      \
  X(lnfw, VECTOR, 1, 1, C)         \
  X(lnfb, VECTOR, 1, 1, C)

enum TensorKind { VECTOR, MATRIX };

struct Tensor {
  const char *name;
  enum TensorKind kind;
  size_t layers, rows, columns;
};

enum { GPT2_TENSOR_COUNT = 0
#define X(...) + 1
       GPT2_TENSORS(X)
#undef X
};

/* One pointer per tensor; layer l of ln1w is ln1w + l * C. */
struct Parameters {
  float *first;  // all of them, in order
#define X(name, ...) float *name;
  GPT2_TENSORS(X)
#undef X
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
  struct Array fch, fch_gelu;   // (K, BT, 4C)
  float *residual3;             // (L, BT, C)  after the feed-forward part
  struct Array lnf;             // (BT, C)
  float *lnf_mean, *lnf_rstd;   // (BT)
  float *logits;                // (HEAD_ROWS, Vp)  a chunk of rows, then its gradient
  float *losses;                // (BT)
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

struct Gpt2 {
  struct Config config;
  size_t B, T;
  enum Dtype dtype;               // of the activations that allow it, and what linear layers multiply
  bool recompute;                 // a layer's activations are computed again when backward needs them
  size_t count;                   // number of parameters, padding included
  const struct Kernels *kernels;
  struct Workers workers;
  struct Parameters params, grads, m, v;  // m, v: AdamW's running means
  struct Activations acts;
  struct ActivationGradients dacts;
  struct MemoryPlan plan;
};

enum { HEAD_ROWS = 256 };  // rows of logits at a time: (B·T, V) is never stored

/* Fills in the shapes of the tensors, in order. */
void gpt2_tensors(const struct Config *config, struct Tensor tensors[GPT2_TENSOR_COUNT]);

/* The number of parameters, padding included. Dies when it does not fit in memory. */
size_t gpt2_count(const struct Config *config);

/* Lays the model out in the arena (see arena.h: called twice); config, kernels, dtype, recompute and the
 * pool are set before. B = 0 is for decoding only; without `training` there are no gradients and no
 * optimizer state. */
void gpt2_layout(struct Gpt2 *model, struct Arena *arena, size_t B, size_t T, bool training);

/* Fills the arena with zero, after the model has been laid out in it: each thread the part of every tensor
 * that it will update, so that the pages lie where they are used. */
void gpt2_first_touch(const struct Gpt2 *model, const struct Arena *arena);

/* The tensors of block l among `all`; those of the whole model stay what they are. */
struct Parameters gpt2_block_parameters(const struct Gpt2 *model, struct Parameters all, size_t l);

/* The activations of block l; with recompute, those of the block in hand. */
struct Activations gpt2_block_activations(const struct Gpt2 *model, size_t l);

/* The mean loss of predicting targets (B, T) from tokens (B, T), both below V. */
double gpt2_loss(struct Gpt2 *model, const int *tokens, const int *targets);

/* The same, and its gradient in model->grads. */
double gpt2_gradients(struct Gpt2 *model, const int *tokens, const int *targets);

struct UpdateConfig {
  double lr, beta1, beta2, eps, weight_decay;
  double max_norm;  // the gradient is scaled down to this global norm; 0: as it is
};

/* AdamW's step number `step`, counted from 1. Returns the global L2 norm that the gradient had. */
double gpt2_update(struct Gpt2 *model, const struct UpdateConfig *update, size_t step);

#endif
