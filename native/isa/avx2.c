/* AVX2 and FMA: 256-bit vectors, 16 registers (x86 since 2013). */
#define ISA_NAME "avx2"
#define ISA_TABLE kernels_avx2

#define VL 8    // floats in a vector
#define MR 6    // rows of the product's tile
#define NRV 2   // vectors in a row of the tile
#define KC 384  // depth of a packed block

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
