/* A model's first weights: normal numbers, each a function of the seed and its place alone.
 *
 * docs/reference/formats.md says what they are, llmc/weights/random.py makes the same bits in NumPy. So that every
 * machine does, this takes only operations that IEEE 754 defines to the last bit: sums, products, quotients
 * and roots of doubles, none of them fused (see EXACT in llmc/engine/toolchain.py).
 */
#ifndef LLMC_RANDOM_H
#define LLMC_RANDOM_H

#include <stdint.h>

#include "model/gpt2.h"

/* The normal number that a random 64-bit number stands for: the quantile of the middle of one of 2^52
 * equal parts of 0 … 1, from -8.2 to 8.2 (Wichura 1988, algorithm AS 241, PPND16). */
double random_normal(uint64_t bits);

/* Fills the weights as GPT-2's were (Radford et al. 2019): matrices normal with standard deviation 0.02,
 * those that write to the residual stream 0.02 / sqrt(2L); biases 0, the weights of layernorms 1; the rows
 * that pad wte 0. Any thread makes any of them. */
void random_weights(const struct Gpt2 *model, uint64_t seed);

#endif
