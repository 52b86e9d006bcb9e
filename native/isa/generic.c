/* 128-bit vectors, which every 64-bit CPU has: SSE2 on x86, NEON on ARM. */
#define ISA_NAME "generic"
#define ISA_TABLE kernels_generic

#define VL 4    // floats in a vector
#define MR 4    // rows of the product's tile
#define NRV 2   // vectors in a row of the tile
#define KC 256  // depth of a packed block

#include "../kernels.h"
#include "../pool.h"
#include "../util.h"

#include "../kernels/vector.h"
#include "../kernels/gelu_tmpl.c"
#include "../kernels/pack_tmpl.c"
#include "../kernels/gemm_tmpl.c"
#include "../kernels/linear_tmpl.c"
#include "../kernels/attention_tmpl.c"
#include "../kernels/layernorm_tmpl.c"
#include "../kernels/encoder_tmpl.c"
#include "../kernels/crossentropy_tmpl.c"
#include "../kernels/adamw_tmpl.c"
#include "../kernels/peak_tmpl.c"
#include "../kernels/table_tmpl.c"
