/* NEON with BF16, and products on SME's outer products (Apple M4). */
#define ISA_NAME "sme"
#define ISA_TABLE kernels_sme

#define VL 4    // floats in a vector
#define MR 8    // rows of attention's tile
#define NRV 3   // vectors in a row of it
#define KC 512  // numbers of K in a packed block
#define PAIRS 1  // bfdot, in attention
#define SME 1

#include "kernels/all_tmpl.c"
