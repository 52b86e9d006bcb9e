/* AVX-512: 512-bit vectors, 32 registers. */
#define ISA_NAME "avx512"
#ifndef ISA_TABLE
#define ISA_TABLE kernels_avx512
#endif

#define VL 16   // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 1024  // numbers of K in a packed block
#define PAIRS 0  // the CPU multiplies floats alone

#include "kernels/all_tmpl.c"
