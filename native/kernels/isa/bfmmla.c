/* NEON with BFMMLA, which multiplies two rows by two columns of four BF16 at once: twice as much as BFDOT. Every CPU with
 * the BF16 extension of Armv8.6 has it. */
#define ISA_NAME "bfmmla"
#ifndef ISA_TABLE
#define ISA_TABLE kernels_bfmmla
#endif

#define VL 4    // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 512  // numbers of K in a packed block
#define PAIRS 1  // bfdot, when decoding
#define QUADS 1  // bfmmla

#include "kernels/all_tmpl.c"
