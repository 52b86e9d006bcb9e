/* NEON with the BF16 extension of Armv8.6 and its dot products (Apple M2, Graviton 3, Neoverse V1 and later). */
#define ISA_NAME "neonbf16"
#ifndef ISA_TABLE
#define ISA_TABLE kernels_neonbf16
#endif

#define VL 4    // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 512  // numbers of K in a packed block
#define PAIRS 1  // bfdot

#include "kernels/all_tmpl.c"
