/* Every operation for one instruction set: a file of isa/ includes this after it has defined
 *   VL     floats in a vector
 *   MR     rows of the product's tile
 *   NRV    vectors in a row of the tile: MR * NRV sums, NRV vectors of B and one of A are its registers
 *   KC     numbers of K in a packed block: few visits to the sums, and a panel of B (KC * NRV * VL words) well
 *          within a second cache
 *   PAIRS  1 where the CPU multiplies BF16 two by two, else 0
 *   QUADS  1 where one instruction multiplies two lanes by two, four BF16 of each; nothing elsewhere
 *   TILES  1 where products of BF16 run on AMX tiles, 3 where those of floats do too, in three parts of BF16; nothing
 *          elsewhere
 *   SME    1 where products run on SME's outer products, nothing elsewhere
 *   BLAS   1 where a library multiplies floats, nothing elsewhere
 */
#ifndef TILES
#define TILES 0
#endif
#ifndef BLAS
#define BLAS 0
#endif
#ifndef SME
#define SME 0
#endif
#ifndef QUADS
#define QUADS 0
#endif

#include "kernels/kernels.h"
#include "kernels/claims.h"
#include "base/pool.h"
#include "base/util.h"

#include "kernels/vector.h"
#include "kernels/bytes.h"
#include "kernels/dropout_tmpl.c"
#include "kernels/gelu_tmpl.c"
#include "kernels/pack_tmpl.c"
#include "kernels/quads_tmpl.c"
#include "kernels/ahead_tmpl.c"
#include "kernels/gemm_tmpl.c"
#include "kernels/product_tmpl.c"
#if TILES
#include "kernels/amx.h"
#include "kernels/pack_tiles_tmpl.c"
#include "kernels/product_tiles_tmpl.c"
static PoolTask *const product_task = product_tiles_task;
#elif SME
#include "kernels/product_sme_tmpl.c"
static PoolTask *const product_task = product_sme_task;
#elif BLAS
#include "kernels/product_blas_tmpl.c"
static PoolTask *const product_task = product_blas_task;
#else
static PoolTask *const product_task = gemm_task;
#endif
#include "kernels/linear_tmpl.c"
#include "kernels/decode_tmpl.c"
#include "kernels/decode_int8_tmpl.c"
#include "kernels/decode_linear_tmpl.c"
#include "kernels/strip_tmpl.c"
#include "kernels/attention_tmpl.c"
#include "kernels/cache_tmpl.c"
#include "kernels/layernorm_tmpl.c"
#include "kernels/encoder_tmpl.c"
#include "kernels/crossentropy_tmpl.c"
#include "kernels/rows_tmpl.c"
#include "kernels/adamw_tmpl.c"
#include "kernels/peak_tmpl.c"
#include "kernels/table_tmpl.c"
