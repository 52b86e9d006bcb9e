/* AVX-512: 512-bit vectors, 32 registers. */
#define ISA_NAME "avx512"
#define ISA_TABLE kernels_avx512

#define VL 16    // floats in a vector
#define MR 8    // rows of the product's tile
#define NRV 3   // vectors in a row of the tile
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
