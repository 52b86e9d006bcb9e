/* AVX-512, and products of BF16 on AMX tiles (Sapphire Rapids and later). */
#ifndef ISA_NAME
#define ISA_NAME "amx"
#define ISA_TABLE kernels_amx
#define TILES 1
#endif

#define VL 16   // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 1024 // numbers of K in a packed block
#define PAIRS 0  // vdpbf16ps takes twice the time of FMA on the CPUs that have AMX

#include "kernels/all_tmpl.c"
