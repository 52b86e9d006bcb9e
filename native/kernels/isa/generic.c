/* 128-bit vectors, which every 64-bit CPU has: SSE2 on x86, NEON on ARM. */
#ifndef ISA_NAME
#define ISA_NAME "generic"
#endif
#ifndef ISA_TABLE
#define ISA_TABLE kernels_generic
#endif

#define VL 4    // floats in a vector
#define MR 4    // rows of the product's tile
#define NRV 2   // vectors in a row of the tile
#define KC 256  // numbers of K in a packed block
#define PAIRS 0  // the CPU multiplies floats alone

#include "kernels/all_tmpl.c"
