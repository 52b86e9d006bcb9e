/* AVX-512 with its BF16 and VNNI instructions (Zen 4, Cooper Lake, Sapphire Rapids and later). */
#define ISA_NAME "avx512bf16"
#ifndef ISA_TABLE
#define ISA_TABLE kernels_avx512bf16
#endif

#define VL 16   // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 1024  // numbers of K in a packed block
#define PAIRS 1  // vdpbf16ps

#include "kernels/all_tmpl.c"
