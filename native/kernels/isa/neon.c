/* NEON on 64-bit ARM: 128-bit vectors, 32 registers, so a larger tile than generic's. */
#ifndef ISA_NAME
#define ISA_NAME "neon"
#endif
#ifndef ISA_TABLE
#define ISA_TABLE kernels_neon
#endif

#define VL 4    // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 256  // numbers of K in a packed block
#define PAIRS 0  // the CPU multiplies floats alone

#include "kernels/all_tmpl.c"
