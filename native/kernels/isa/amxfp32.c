/* As amx.c, and products of floats on AMX tiles too, in three parts of BF16. */
#define ISA_NAME "amxfp32"
#define ISA_TABLE kernels_amxfp32
#define TILES 3

#include "kernels/isa/amx.c"
