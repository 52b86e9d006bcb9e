/* The operations a GPT-2 is made of: one function pointer each. A table of them is one way to compute;
 * plain.c holds the plainest, isa/ the fast ones, and gpt2.c does not know which it runs on.
 *
 * B batch, T time, C channels, V vocabulary, Vp padded vocabulary, NH heads, HS head size, N rows.
 * Linear layers are products of M rows, N outputs and K inputs. Everything is row-major, without
 * alignment: floats, or an Array where activations may be stored as BF16. Arguments run: outputs,
 * inputs, weights, dimensions. Gradients are prefixed d. "+=" adds to what is there, "=" overwrites.
 * Kernels cannot fail.
 */
#ifndef LLMC_KERNELS_H
#define LLMC_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"
#include "kernels/dropout.h"
#include "kernels/moments.h"

struct Pool;

/* Who works, in which precision, and the scratch memory they work in. */
struct Workers {
  struct Pool *pool;
  enum Dtype dtype;        // linear layers multiply numbers of this type, and add them up as floats
  float *shared;           // one block for all threads: Kernels.shared_floats(…)
  float *own;              // one block per thread, own_floats apart
  size_t own_floats;       // Kernels.own_floats(T, HS)
  float *sums;             // (rows, columns) of the largest product whose result is BF16
};

/* One step's constants; double, because 1 - 0.999 loses four digits in float. */
struct AdamW {
  double lr, beta1, beta2, eps, weight_decay;
  double correction1, correction2;  // 1 - beta^t, by which the moments are divided
  double scale;                     // of the gradient: below 1 where its norm is clipped
  uint64_t key;                     // of the random bits that round the moments
  size_t first;                     // the place in their tensor of the first number, by which these bits are told apart
};

/* A token of a text: where its keys and values are kept. */
struct Feed {
  size_t slot, position;
  int token;
};

/* The keys and values of one layer: S slots of P positions. A head's row is filled up with zeros, which whoever
 * makes the cache puts there. */
struct Cache {
  struct Array keys, values;  // (S, NH, P, round_up(HS, CACHE_LANES))
  size_t P;
};

enum { CACHE_LANES = 16 };

/* What becomes of x = inp · weightᵀ + bias. */
enum DecodeFinish {
  DECODE_STORE,  // out = x
  DECODE_ADD,    // out += x
  DECODE_GELU,   // out = GELU(x)
};

enum { DECODE_ROWS = 64 };  // more rows than these are a prompt

/* The arguments of operations that have many. */

struct LayerNormForward {
  struct Array out;                   // (N, C)
  float *mean, *rstd;                 // (N) of each row of inp
  const float *inp;                   // (N, C)
  const float *weight, *bias;         // (C)
  size_t N, C;
};

struct LayerNormBackward {
  float *dinp;                        // (N, C)  +=
  float *dweight, *dbias;             // (C)     +=
  const float *dout, *inp;            // (N, C)
  const float *mean, *rstd;           // (N)
  const float *weight;                // (C)
  size_t N, C;
};

struct Linear {
  struct Array out;                   // (M, N); linear_residual writes floats
  struct Array slope;                 // (M, N)  linear_gelu: the derivative of GELU
  const float *residual;              // (M, N)  linear_residual
  struct ArrayView inp;               // (M, K)
  const float *weight;                // (N, K)
  const float *bias;                  // (N), or NULL in linear_forward
  size_t M, N, K;
};

struct LinearBackwardWeight {
  float *dweight;                     // (N, K)
  float *dbias;                       // (N) or NULL
  const float *dout;                  // (M, N)
  struct ArrayView inp;               // (M, K)
  bool add;                           // += instead of =
  size_t M, N, K;
};

struct DropoutRows {
  float *out;                         // (N, C)
  const float *inp;                   // (N, C); may be out
  const float *residual;              // (N, C), or NULL
  struct Dropout dropout;
  size_t N, C;
};

struct DecodeLinear {
  float *out;                         // (M, N)
  const float *inp;                   // (M, K)
  struct WeightsView weight;          // (N, K)
  const float *bias;                  // (N) or NULL
  enum DecodeFinish finish;
  size_t M, N, K;
};

struct AttentionForward {
  struct Array out;                   // (B, T, C)
  float *lse;                         // (B, NH, T)
  struct ArrayView qkv;               // (B, T, 3C)
  struct Dropout dropout;             // of the weights; a row is a head
  size_t B, T, C, NH;
};

struct AttentionBackward {
  float *dqkv;                        // (B, T, 3C)
  const float *dout;                  // (B, T, C)
  struct ArrayView qkv, out;          // (B, T, 3C), (B, T, C)
  const float *lse;                   // (B, NH, T)
  struct Dropout dropout;
  size_t B, T, C, NH;
};

struct Kernels {
  const char *name;                          // as in LLMC_ISA
  bool multiplies_bf16;                      // the CPU does; else BF16 is made float before it is multiplied
  size_t logits_rows;                        // in BF16: rows of logits to make at a time, so that products pay; 0: any
  size_t (*shared_floats)(size_t largest);   // scratch that all threads share, for products of no larger M, N, K
  size_t (*own_floats)(size_t T, size_t HS); // scratch of one thread, for T positions and heads of size HS

  /* out (B, T, C) = wte[token] + wpe[t];  tokens (B, T), wte (V, C), wpe (maxT, C) */
  void (*encoder_forward)(const struct Workers *, float *out, const int *tokens, const float *wte,
                          const float *wpe, size_t B, size_t T, size_t C);
  /* dwte[token] += dout, dwpe[t] += dout */
  void (*encoder_backward)(const struct Workers *, float *dwte, float *dwpe, const float *dout,
                           const int *tokens, size_t B, size_t T, size_t C);

  /* out (N, C) = (inp - mean) * rstd * weight + bias over each row;  mean, rstd (N); weight, bias (C).
   * The variance is the biased one, epsilon 1e-5. Ba et al. 2016, torch.nn.LayerNorm. */
  void (*layernorm_forward)(const struct Workers *, struct LayerNormForward);
  /* dinp (N, C) +=, dweight (C) +=, dbias (C) += */
  void (*layernorm_backward)(const struct Workers *, struct LayerNormBackward);

  /* out (M, N) = inp (M, K) · weightᵀ + bias;  weight (N, K), bias (N) or NULL. torch.nn.Linear */
  void (*linear_forward)(const struct Workers *, struct Linear);
  /* out (M, N) = residual (M, N) + inp · weightᵀ + bias */
  void (*linear_residual)(const struct Workers *, struct Linear);
  /* out (M, N) = GELU(inp · weightᵀ + bias), in its tanh form (Hendrycks, Gimpel 2016), and slope (M, N), its
   * derivative there: backward needs nothing else */
  void (*linear_gelu)(const struct Workers *, struct Linear);
  /* dinp (M, K) = dout (M, N) · weight */
  void (*linear_backward_input)(const struct Workers *, float *dinp, const float *dout,
                                const float *weight, size_t M, size_t N, size_t K);
  /* dpre (M, K) = (dout (M, N) · weight) ∘ slope (M, K);  the layer's input was GELU(pre) */
  void (*linear_backward_gelu)(const struct Workers *, float *dpre, const float *dout, struct ArrayView slope,
                               const float *weight, size_t M, size_t N, size_t K);
  /* dweight (N, K) = doutᵀ · inp, dbias (N) = the column sums of dout unless it is NULL;  += with `add` */
  void (*linear_backward_weight)(const struct Workers *, struct LinearBackwardWeight);
  /* out (N, N) = a · bᵀ;  a, b (N, K).  With `columns` out = aᵀ · b;  a, b (K, N).  The product must be symmetric:
   * what lies right of the diagonal is multiplied, and copied to the left. */
  void (*linear_symmetric)(const struct Workers *, float *out, const float *a, const float *b, size_t N, size_t K,
                           bool columns);

  /* out (N, C) = residual + dropout(inp), without the residual where there is none */
  void (*dropout)(const struct Workers *, struct DropoutRows);

  /* out (M, N) = finish(inp (M, K) · weightᵀ + bias);  weight (N, K) of any type, bias (N) or NULL.
   * Up to DECODE_ROWS rows: with INT8 weights the input is made INT8 too, in blocks of 32 (as weights_store does
   * it), else both factors are multiplied in the weights' type; a row's bits do not depend on M. Beyond that:
   * the product of training, where INT8 is made float or BF16, unless the CPU multiplies INT8 faster.
   * workers->dtype does not count. Scratch: shared_floats(…), own_floats(1, 1). */
  void (*decode_linear)(const struct Workers *, struct DecodeLinear);
  /* The same for any number of rows by the product of training: faster from some dozen rows on, other bits. */
  void (*prompt_linear)(const struct Workers *, struct DecodeLinear);
  /* Rows first … first + count of out (…, K) = weight (count, K), stored in its type. A block with a NaN gets a scale
   * that is NaN. */
  void (*weights_store)(const struct Workers *, struct Weights out, const float *weight, size_t first, size_t count,
                        size_t K);

  /* Causal self-attention. qkv (B, T, 3C): query, key, value, each NH heads of HS = C / NH.
   * out (B, T, C);  lse (B, NH, T): the log of the sum of exponentials of each row of scores. */
  void (*attention_forward)(const struct Workers *, struct AttentionForward);
  /* dqkv (B, T, 3C) = the gradient of qkv */
  void (*attention_backward)(const struct Workers *, struct AttentionBackward);
  /* Attention of M tokens that follow each other in one slot, the first of them as `first` says: their keys and
   * values are put into the cache, after those of all positions before. out (M, C), qkv (M, 3C).
   * Scratch: own_floats(first + M, HS). */
  void (*attention_prompt)(const struct Workers *, float *out, const float *qkv, struct Cache cache,
                           struct Feed first, size_t M, size_t C, size_t NH);
  /* The same for one token of each of M slots. A row's bits do not depend on the others. */
  void (*attention_forward_cached)(const struct Workers *, float *out, const float *qkv, struct Cache cache,
                           const struct Feed *feeds, size_t M, size_t C, size_t NH);

  /* losses (N) = -log softmax(logits)[target], over the first V columns;
   * logits (N, Vp) = scale * d losses / d logits, the columns from V on zero. Where a target is -1, both are 0. */
  void (*crossentropy)(const struct Workers *, float *losses, float *logits, const int *targets,
                       float scale, size_t N, size_t V, size_t Vp);

  /* Of one row of logits x (n), by the thread that calls. The largest; where some are not finite, any of them. */
  float (*row_largest)(const float *x, size_t n);
  /* out (n) = exp((x - max) * scale), unless out is NULL; returns their sum, NaN where some x is not finite. */
  double (*row_exponentials)(float *out, const float *x, float max, float scale, size_t n);

  /* The sum of the squares of x (n). */
  double (*sum_squares)(const struct Workers *, const float *x, size_t n);
  /* One step on params (n), with the moments (n): running means of the gradient and of its square. Returns the sum of
   * the squares of grads (n), which it has to read anyway. Loshchilov, Hutter 2019; torch.optim.AdamW */
  double (*adamw_update)(const struct Workers *, float *params, struct Moments, const float *grads,
                         const struct AdamW *, size_t n);

  /* Multiplies and adds in registers alone, on all threads, and returns how many floating-point
   * operations that were: timed, it is the machine's peak. */
  double (*peak_flops)(const struct Workers *);
};

/* The best table that this machine can run, or the one that the environment's LLMC_ISA names: for generating text, whose
 * weights have any type. Dies with EXIT_USAGE when LLMC_ISA names none, or one that this machine cannot run. */
const struct Kernels *kernels_best(void);

/* The same for training in this type, after measuring the machine for some milliseconds: BF16 takes the table whose
 * instructions for BF16 are fastest, or one that multiplies floats where that is faster still; FP32 takes a BLAS or
 * a matrix unit that is faster than the best table. Of the tables that would be measured, the one named `preferred`, unless
 * that is NULL: what a run began with decides its bits. */
const struct Kernels *kernels_choose(enum Dtype dtype, const char *preferred);

/* Operations a second of one thread's multipliers, in products of this type. */
double kernels_rate(const struct Kernels *kernels, enum Dtype dtype);

/* The i-th table in the binary, best last, whether or not this machine can run it; NULL after the last. */
const struct Kernels *kernels_at(int i);
int kernels_runnable(const struct Kernels *kernels);

/* A bit for every table that this machine can run, bit i for the i-th. */
uint64_t kernels_runnable_set(void);

/* `chosen`, or where the set lacks it, the best table of the set that is taken without being measured. */
const struct Kernels *kernels_among(uint64_t set, const struct Kernels *chosen);

#endif
