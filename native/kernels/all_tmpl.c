/* Every operation for one instruction set: a file of isa/ includes this after it has defined
 *   VL     floats in a vector
 *   MR     rows of the product's tile
 *   NRV    vectors in a row of the tile: MR * NRV sums, NRV vectors of B and one of A are its registers
 *   KC     numbers of K in a packed block: few visits to the sums, and a panel of B (KC * NRV * VL words) well
 *          within a second cache
 *   PAIRS  1 where the CPU multiplies BF16 two by two, else 0
 */
#include "../kernels.h"
#include "../pool.h"
#include "../util.h"

#include "vector.h"
#include "bytes.h"
#include "gelu_tmpl.c"
#include "pack_tmpl.c"
#include "gemm_tmpl.c"
#include "linear_tmpl.c"
#include "decode_tmpl.c"
#include "attention_tmpl.c"
#include "cache_tmpl.c"
#include "layernorm_tmpl.c"
#include "encoder_tmpl.c"
#include "crossentropy_tmpl.c"
#include "rows_tmpl.c"
#include "adamw_tmpl.c"
#include "peak_tmpl.c"
#include "table_tmpl.c"
