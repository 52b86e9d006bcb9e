/* As amx.c, and products of floats on AMX tiles too. */
#define ISA_NAME "amxfp32"
#ifndef ISA_TABLE
#define ISA_TABLE kernels_amxfp32
#endif

#define VL 16   // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
#define KC 1024 // numbers of K in a packed block
#define PAIRS 0  // vdpbf16ps takes twice the time of FMA on the CPUs that have AMX
#define TILES 3

#include "kernels/all_tmpl.c"
