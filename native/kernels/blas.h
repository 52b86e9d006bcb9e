/* A BLAS that is opened at run time: Apple's Accelerate, the only way to the matrix unit of M1 to M3, or the library that
 * the environment's LLMC_BLAS names. */
#ifndef LLMC_BLAS_H
#define LLMC_BLAS_H

#include <stdbool.h>
#include <stddef.h>

/* Whether there is one; opens it, with its own threads turned off. Dies with EXIT_USAGE when LLMC_BLAS names a file that
 * is none. */
bool blas_open(void);

/* A matrix of floats, row-major or transposed, whose rows lie `stride` floats apart. */
struct BlasMatrix {
  const float *data;
  size_t stride;
  bool transposed;
};

/* out (M, N) = a (M, K) · b (K, N), or with `add` += ; rows of out lie `stride` floats apart. By the calling thread. */
void blas_multiply(float *out, size_t stride, struct BlasMatrix a, struct BlasMatrix b, size_t M, size_t N, size_t K,
                   bool add);

#endif
