/* Products of floats by a BLAS; everything else as in the table of 128-bit vectors. */
#define ISA_NAME "blas"
#define ISA_TABLE kernels_blas
#define BLAS 1

#if defined(__aarch64__)
#include "kernels/isa/neon.c"
#else
#include "kernels/isa/generic.c"
#endif
