/* Asks the CPU once what it can do and picks the table. The only file that names the tables.
 *
 * The compiler's own __builtin_cpu_supports answers 0 to everything under zig, so the question goes
 * to the CPU itself: CPUID for what it has, XGETBV for what the system saves on a switch.
 */
#define _GNU_SOURCE  // syscall
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/pool.h"
#include "base/util.h"
#include "kernels/blas.h"
#include "kernels/kernels.h"
#include "kernels/peak.h"

extern const struct Kernels kernels_plain;
#ifdef LLMC_HAVE_NATIVE
extern const struct Kernels kernels_native;
#endif
#ifdef LLMC_HAVE_GENERIC
extern const struct Kernels kernels_generic;
#endif
#ifdef LLMC_HAVE_AVX2
extern const struct Kernels kernels_avx2;
#endif
#ifdef LLMC_HAVE_AVX512
extern const struct Kernels kernels_avx512;
#endif
#ifdef LLMC_HAVE_AVX512BF16
extern const struct Kernels kernels_avx512bf16;
#endif
#ifdef LLMC_HAVE_AMX
extern const struct Kernels kernels_amx;
#endif
#ifdef LLMC_HAVE_AMXFP32
extern const struct Kernels kernels_amxfp32;
#endif
#ifdef LLMC_HAVE_BLAS
extern const struct Kernels kernels_blas;
#endif
#ifdef LLMC_HAVE_NEON
extern const struct Kernels kernels_neon;
#endif
#ifdef LLMC_HAVE_NEONBF16
extern const struct Kernels kernels_neonbf16;
#endif
#ifdef LLMC_HAVE_BFMMLA
extern const struct Kernels kernels_bfmmla;
#endif
#ifdef LLMC_HAVE_SME
extern const struct Kernels kernels_sme;
#endif

static int always(void) { return 1; }

#if defined(__x86_64__)
#include <cpuid.h>

/* What the compiler may use at the level x86-64-v3: bits of CPUID leaf 1 (ECX: FMA, MOVBE, OSXSAVE,
 * F16C), leaf 7 (EBX: BMI1, AVX2, BMI2), leaf 0x80000001 (ECX: LZCNT); bits of XCR0. Intel SDM,
 * volume 2A; the x86-64 psABI, section 3.1.1. */
static const unsigned LEAF1 = 1u << 12 | 1u << 22 | 1u << 27 | 1u << 29;
static const unsigned LEAF_EXTENDED = 1u << 5;
static const unsigned LEAF7_AVX2 = 1u << 3 | 1u << 5 | 1u << 8;
enum { XCR0_AVX = 0x06, XCR0_AVX512 = 0xE6 };
/* F, DQ, CD, BW, VL: what the x86-64-v4 level asks for. */
static const unsigned LEAF7_AVX512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;

static int has(unsigned leaf7_ebx, unsigned xcr0) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & LEAF1) != LEAF1) return 0;
  if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & LEAF_EXTENDED)) return 0;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & xcr0) != xcr0) return 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7_ebx) == leaf7_ebx;
}

__attribute__((unused)) static int has_avx2(void) { return has(LEAF7_AVX2, XCR0_AVX); }
__attribute__((unused)) static int has_avx512(void) { return has(LEAF7_AVX2 | LEAF7_AVX512, XCR0_AVX512); }

/* Every CPU with AVX512_BF16 has AVX512_VNNI, which the table uses too; asked for all the same. */
__attribute__((unused)) static int has_avx512bf16(void) {
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & 1u << 11) &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

/* Leaf 7 EDX: AMX-BF16, AMX-TILE, AMX-INT8; XCR0: the tiles' configuration and their data. Linux saves 8 KB of tiles
 * for a process that has asked for it, before any of its threads uses one (arch_prctl, Documentation/arch/x86/xstate). */
__attribute__((unused)) static int has_amx(void) {
#if defined(LLMC_TILES_MODEL)
  return has_avx512bf16();  // plain C in place of the tiles
#elif defined(__linux__)
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, XCR0_TILES = 3 << 17 };
  const unsigned tiles = 1u << 22 | 1u << 24 | 1u << 25;
  unsigned a, b, c, d, low, high;
  if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles) != tiles) return 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & XCR0_TILES) == XCR0_TILES && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return 0;
#endif
}
#endif

#if defined(__aarch64__)
#if defined(__APPLE__)
#include <sys/sysctl.h>

__attribute__((unused)) static int has_feature(const char *name) {
  int present = 0;
  size_t size = sizeof present;
  return sysctlbyname(name, &present, &size, NULL, 0) == 0 && present;
}

/* FEAT_BF16 is both BFDOT and BFMMLA. */
__attribute__((unused)) static int has_neonbf16(void) {
  return has_feature("hw.optional.arm.FEAT_BF16") && has_feature("hw.optional.arm.FEAT_DotProd");
}

__attribute__((unused)) static int says_sme(void) { return has_feature("hw.optional.arm.FEAT_SME"); }
#elif defined(_WIN32)
int IsProcessorFeaturePresent(unsigned long feature);  // of kernel32; windows.h has an INT8 of its own

/* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V86_BF16_INSTRUCTIONS_AVAILABLE, which older headers do not name. */
__attribute__((unused)) static int has_neonbf16(void) {
  return IsProcessorFeaturePresent(43) && IsProcessorFeaturePresent(68);
}

__attribute__((unused)) static int says_sme(void) { return 0; }  // not tried there
#else
#include <sys/auxv.h>

/* HWCAP2_BF16, which is both BFDOT and BFMMLA, and HWCAP_ASIMDDP */
__attribute__((unused)) static int has_neonbf16(void) {
  return (getauxval(AT_HWCAP2) & 1ul << 14) != 0 && (getauxval(AT_HWCAP) & 1ul << 20) != 0;
}

/* HWCAP2_SME, HWCAP2_SME_B16F32 and HWCAP2_SME_F32F32 */
__attribute__((unused)) static int says_sme(void) {
  const unsigned long all = 1ul << 23 | 1ul << 28 | 1ul << 29;
  return (getauxval(AT_HWCAP2) & all) == all;
}
#endif

#ifdef LLMC_HAVE_SME
/* With streaming vectors of at most 1,024 bits: the table's buffers are made for those. */
static int has_sme(void) {
  if (!has_neonbf16() || !says_sme()) return 0;
  uint64_t bytes;
  __asm__(".arch_extension sme\n\trdsvl %0, #1" : "=r"(bytes));
  return bytes <= 128;
}
#endif
#endif

#ifdef LLMC_HAVE_BLAS
static int has_blas(void) { return blas_open(); }
#endif

/* When a table is taken: as the last one of the list that the machine can run, or for its own reasons. */
enum Taken { IN_TURN, WHEN_NAMED, WHEN_FASTER };

/* Worst first. */
static const struct {
  const struct Kernels *kernels;
  int (*runnable)(void);
  enum Taken taken;
} tables[] = {
    {&kernels_plain, always, IN_TURN},
#ifdef LLMC_HAVE_BLAS
    {&kernels_blas, has_blas, WHEN_FASTER},
#endif
#ifdef LLMC_HAVE_GENERIC
    {&kernels_generic, always, IN_TURN},
#endif
#ifdef LLMC_HAVE_NATIVE
    {&kernels_native, always, IN_TURN},  // the whole program is for this CPU
#endif
#ifdef LLMC_HAVE_NEON
    {&kernels_neon, always, IN_TURN},  // every 64-bit ARM has it
#endif
#ifdef LLMC_HAVE_NEONBF16
    {&kernels_neonbf16, has_neonbf16, IN_TURN},
#endif
#ifdef LLMC_HAVE_BFMMLA
    {&kernels_bfmmla, has_neonbf16, IN_TURN},
#endif
#ifdef LLMC_HAVE_SME
    {&kernels_sme, has_sme, WHEN_FASTER},
#endif
#ifdef LLMC_HAVE_AVX2
    {&kernels_avx2, has_avx2, IN_TURN},
#endif
#ifdef LLMC_HAVE_AVX512
    {&kernels_avx512, has_avx512, IN_TURN},
#endif
#ifdef LLMC_HAVE_AVX512BF16
    {&kernels_avx512bf16, has_avx512bf16, IN_TURN},
#endif
#ifdef LLMC_HAVE_AMXFP32
    {&kernels_amxfp32, has_amx, WHEN_NAMED},
#endif
#ifdef LLMC_HAVE_AMX
    {&kernels_amx, has_amx, IN_TURN},
#endif
};
enum { TABLES = sizeof tables / sizeof *tables };

const struct Kernels *kernels_at(int i) { return i < TABLES ? tables[i].kernels : NULL; }

int kernels_runnable(const struct Kernels *kernels) {
  for (int i = 0; i < TABLES; i++) {
    if (tables[i].kernels == kernels) return tables[i].runnable();
  }
  return 0;
}

uint64_t kernels_runnable_set(void) {
  uint64_t set = 0;
  for (int i = 0; i < TABLES; i++) set |= (uint64_t)(tables[i].runnable() != 0) << i;
  return set;
}

const struct Kernels *kernels_among(uint64_t set, const struct Kernels *chosen) {
  for (int i = 0; i < TABLES; i++) {
    if (tables[i].kernels == chosen && (set >> i & 1) != 0) return chosen;
  }
  int best = TABLES - 1;
  while (best > 0 && (tables[best].taken != IN_TURN || (set >> best & 1) == 0)) best--;
  return tables[best].kernels;
}

double kernels_rate(const struct Kernels *kernels, enum Dtype dtype) {
  struct Workers workers = {.pool = pool_create(1), .dtype = dtype};
  const double rate = peak_measure(kernels, &workers).best;
  pool_destroy(workers.pool);
  return rate;
}

/* The last table that this machine can run. */
static const struct Kernels *best_runnable(void) {
  int best = TABLES - 1;
  while (tables[best].taken != IN_TURN || !tables[best].runnable()) best--;
  return tables[best].kernels;
}

/* A table that may be the fastest, and the type that it multiplies. */
struct Candidate {
  const struct Kernels *kernels;
  enum Dtype dtype;
};

enum { TURNS = 5 };
static const double FASTER = 1.15;

/* The first one, unless another is faster by that factor. They are measured by turns, the best of each counts: who is
 * kept waiting by another program would look slow. Most often the first turn shows enough. */
static const struct Kernels *fastest(const struct Candidate *candidates, int count, const char *preferred) {
  double rates[TABLES] = {0};
  for (int i = 0; i < count && preferred != NULL; i++) {
    if (strcmp(candidates[i].kernels->name, preferred) == 0) return candidates[i].kernels;
  }
  int best = 0;
  for (int turn = 0; turn < TURNS && count > 1 && (turn == 0 || best > 0); turn++) {
    for (int i = 0; i < count; i++) {
      const double rate = kernels_rate(candidates[i].kernels, candidates[i].dtype);
      if (rate > rates[i]) rates[i] = rate;
    }
    best = 0;
    for (int i = 1; i < count; i++) {
      if (rates[i] > rates[best] * (best == 0 ? FASTER : 1)) best = i;
    }
  }
  return candidates[best].kernels;
}

/* Of BF16: those that multiply it, the last one first, and the last one that multiplies floats alone. */
static int bf16_candidates(struct Candidate candidates[TABLES]) {
  int count = 0;
  for (int i = TABLES - 1; i >= 0; i--) {
    const struct Kernels *kernels = tables[i].kernels;
    const bool multiplies = kernels->multiplies_bf16;
    const bool wanted = tables[i].taken == IN_TURN || (tables[i].taken == WHEN_FASTER && multiplies);
    if (!wanted || !tables[i].runnable()) continue;
    candidates[count++] = (struct Candidate){kernels, multiplies ? BF16 : FP32};
    if (!multiplies) break;
  }
  return count;
}

/* Of FP32: the last table, and what needs a library or a mode of its own. */
static int fp32_candidates(struct Candidate candidates[TABLES]) {
  int count = 0;
  candidates[count++] = (struct Candidate){best_runnable(), FP32};
  for (int i = 0; i < TABLES; i++) {
    if (tables[i].taken == WHEN_FASTER && tables[i].runnable()) candidates[count++] = (struct Candidate){tables[i].kernels, FP32};
  }
  return count;
}

/* The table that LLMC_ISA names, or NULL where it names none. */
static const struct Kernels *forced_table(void) {
  const char *forced = getenv("LLMC_ISA");
  if (forced == NULL || *forced == '\0') return NULL;
  if (strcmp(forced, "reference") == 0) forced = "plain";  // its name in earlier versions
  char known[128] = "";
  for (int i = 0; i < TABLES; i++) {
    if (strcmp(forced, tables[i].kernels->name) == 0) {
      if (tables[i].runnable()) return tables[i].kernels;
      if (strcmp(forced, "blas") == 0) {
        die(EXIT_USAGE, "LLMC_ISA=blas: no BLAS was found; name its library with LLMC_BLAS=FILE, or unset LLMC_ISA");
      }
      die(EXIT_USAGE, "LLMC_ISA=%s: this machine's CPU cannot run it; unset LLMC_ISA", forced);
    }
    strcat(strcat(known, " "), tables[i].kernels->name);
  }
  die(EXIT_USAGE, "LLMC_ISA=%s: no such instruction set; this build has:%s", forced, known);
}

const struct Kernels *kernels_best(void) {
  const struct Kernels *forced = forced_table();
  return forced != NULL ? forced : best_runnable();
}

const struct Kernels *kernels_choose(enum Dtype dtype, const char *preferred) {
  const struct Kernels *forced = forced_table();
  if (forced != NULL) return forced;
  struct Candidate candidates[TABLES];
  const int count = dtype == BF16 ? bf16_candidates(candidates) : fp32_candidates(candidates);
  return fastest(candidates, count, preferred);
}
