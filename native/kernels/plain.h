/* The plain loops of decoding, and what they share with those of training: kernels.h says what each does. */
#ifndef LLMC_PLAIN_H
#define LLMC_PLAIN_H

#include "kernels/kernels.h"

/* A factor as it is multiplied: rounded where that is BF16. */
float plain_operand(const struct Workers *workers, float x);

/* GELU in its tanh form. */
float plain_gelu(float x);

/* One query against the keys and values of positions 0 … T-1, `stride` numbers apart; returns the log of the
 * sum of exponentials. The head's dropout may be NULL. */
float plain_attend(struct Array out, struct ArrayView q, struct ArrayView keys, struct ArrayView values, size_t stride,
                   size_t T, size_t HS, const struct Dropout *head);

void plain_weights_store(const struct Workers *workers, struct Weights out, const float *weight, size_t first,
                         size_t count, size_t K);
void plain_decode_linear(const struct Workers *workers, struct DecodeLinear linear);
void plain_prompt_linear(const struct Workers *workers, struct DecodeLinear linear);
void plain_attention_forward_cached(const struct Workers *workers, float *out, const float *qkv,
                                struct Cache cache, const struct Feed *feeds, size_t M, size_t C, size_t NH);
void plain_attention_prompt(const struct Workers *workers, float *out, const float *qkv,
                                struct Cache cache, struct Feed first, size_t M, size_t C, size_t NH);
float plain_row_largest(const float *x, size_t n);
double plain_row_exponentials(float *out, const float *x, float max, float scale, size_t n);

#endif
