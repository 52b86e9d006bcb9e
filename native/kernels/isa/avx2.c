/* AVX2 and FMA: 256-bit vectors, 16 registers (x86 since 2013). */
#define ISA_NAME "avx2"
#ifndef ISA_TABLE
#define ISA_TABLE kernels_avx2
#endif

#define VL 8    // floats in a vector
#define MR 6    // rows of the product's tile
#define NRV 2   // vectors in a row of the tile
#define KC 768  // numbers of K in a packed block
#define PAIRS 0  // the CPU multiplies floats alone

#include "kernels/all_tmpl.c"
