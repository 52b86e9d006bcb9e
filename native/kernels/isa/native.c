/* The instruction set of the CPU that this is compiled for, and no other: llmc build --cpu native. */
#define ISA_TABLE kernels_native

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__) && \
    defined(__AVX512DQ__)
#include "kernels/isa/avx512bf16.c"
#elif defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#include "kernels/isa/avx512.c"
#elif defined(__AVX2__) && defined(__FMA__)
#include "kernels/isa/avx2.c"
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "kernels/isa/bfmmla.c"
#elif defined(__ARM_NEON)
#include "kernels/isa/neon.c"
#else
#include "kernels/isa/generic.c"
#endif
