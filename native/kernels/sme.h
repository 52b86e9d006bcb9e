/* SME: a matrix of sums, ZA, and outer products of two vectors that are added to it. Arm ARM, chapter B1.4.
 *
 * A vector of the streaming mode has `words` floats, which the CPU says: 4 to 32 here. Of four parts of ZA, words by words
 * each, two vectors of the left factor and two of the right one make a block of 2 words by 2 words. In streaming mode
 * NEON's instructions do not run, so all between entering and leaving it is one piece of assembly.
 */
#include <stdint.h>

enum { SME_WORDS = 32, SME_LANES = 2 * SME_WORDS };  // the most that tables are made for

/* Floats in a vector of the streaming mode. */
INLINE size_t sme_words(void) {
  uint64_t bytes;
  __asm__(".arch_extension sme\n\trdsvl %0, #1" : "=r"(bytes));
  return bytes / sizeof(float);
}

/* Every register of NEON is zero after the mode has changed. */
#define SME_CLOBBERS                                                                                                    \
  "memory", "cc", "x12", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", \
      "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31"

#define SME_STEP(multiply, type)                                                            \
  multiply " za0.s, p0/m, p0/m, z0" type ", z2" type "\n\t"                                 \
  multiply " za1.s, p0/m, p0/m, z0" type ", z3" type "\n\t"                                 \
  multiply " za2.s, p0/m, p0/m, z1" type ", z2" type "\n\t"                                 \
  multiply " za3.s, p0/m, p0/m, z1" type ", z3" type "\n\t"

/* sums = panels of a times panels of b: for each panel of b all of a. */
#define SME_PANELS(multiply, type)                                                          \
  ".arch_extension sme\n\t"                                                                 \
  "smstart\n\t"                                                                             \
  "ptrue p0.b\n\t"                                                                          \
  "cntw %[words]\n"                                                                         \
  "1:\n\t" /* a panel of b */                                                               \
  "mov %[left], %[a]\n\t"                                                                   \
  "mov %[out], %[sums]\n\t"                                                                 \
  "mov %[panel], %[a_panels]\n"                                                             \
  "2:\n\t" /* a panel of a */                                                               \
  "zero {za}\n\t"                                                                           \
  "mov %[right], %[b]\n\t"                                                                  \
  "mov %[step], %[steps]\n"                                                                 \
  "3:\n\t"                                                                                  \
  "ldr z0, [%[left]]\n\t"                                                                   \
  "ldr z1, [%[left], #1, mul vl]\n\t"                                                       \
  "ldr z2, [%[right]]\n\t"                                                                  \
  "ldr z3, [%[right], #1, mul vl]\n\t"                                                      \
  "addvl %[left], %[left], #2\n\t"                                                          \
  "addvl %[right], %[right], #2\n\t"                                                        \
  "subs %[step], %[step], #1\n\t"                                                           \
  SME_STEP(multiply, type)                                                                  \
  "b.ne 3b\n\t"                                                                             \
  "madd %[lower], %[words], %[stride], %[out]\n\t"                                          \
  "mov w12, #0\n"                                                                           \
  "4:\n\t" /* a row of the upper half, one of the lower half */                             \
  "st1w {za0h.s[w12, 0]}, p0, [%[out]]\n\t"                                                 \
  "st1w {za1h.s[w12, 0]}, p0, [%[out], %[words], lsl #2]\n\t"                               \
  "st1w {za2h.s[w12, 0]}, p0, [%[lower]]\n\t"                                               \
  "st1w {za3h.s[w12, 0]}, p0, [%[lower], %[words], lsl #2]\n\t"                             \
  "add %[out], %[out], %[stride]\n\t"                                                       \
  "add %[lower], %[lower], %[stride]\n\t"                                                   \
  "add w12, w12, #1\n\t"                                                                    \
  "cmp x12, %[words]\n\t"                                                                   \
  "b.lo 4b\n\t"                                                                             \
  "mov %[out], %[lower]\n\t"                                                                \
  "subs %[panel], %[panel], #1\n\t"                                                         \
  "b.ne 2b\n\t"                                                                             \
  "mov %[b], %[right]\n\t"                                                                  \
  "addvl %[sums], %[sums], #2\n\t"                                                          \
  "subs %[b_panels], %[b_panels], #1\n\t"                                                   \
  "b.ne 1b\n\t"                                                                             \
  "smstop"

#define SME_MULTIPLY(multiply, type)                                                                                    \
  uint64_t left, right, out, lower, panel, step, words;                                                                 \
  __asm__ volatile(SME_PANELS(multiply, type)                                                                           \
                   : [left] "=&r"(left), [right] "=&r"(right), [out] "=&r"(out), [lower] "=&r"(lower),                  \
                     [panel] "=&r"(panel), [step] "=&r"(step), [words] "=&r"(words), [b] "+&r"(b), [sums] "+&r"(sums),  \
                     [b_panels] "+&r"(b_panels)                                                                         \
                   : [a] "r"(a), [steps] "r"(steps), [a_panels] "r"(a_panels), [stride] "r"(stride * sizeof(float))     \
                   : SME_CLOBBERS)

/* sums (a_panels * 2 words rows, `stride` floats apart) = a · b: panels of 2 words lanes, of so many steps. */
static void sme_multiply_floats(float *sums, size_t stride, const float *a, size_t a_panels, const float *b,
                                size_t b_panels, size_t steps) {
  SME_MULTIPLY("fmopa", ".s");
}

/* The same, a word being two BF16 of a lane. */
static void sme_multiply_pairs(float *sums, size_t stride, const float *a, size_t a_panels, const float *b,
                               size_t b_panels, size_t steps) {
  SME_MULTIPLY("bfmopa", ".h");
}

#define SME_PEAK(multiply, type)                                                                                   \
  __asm__ volatile(".arch_extension sme\n\tsmstart\n\tptrue p0.b\n\tzero {za}\n"                                   \
                   "1:\n\t" SME_STEP(multiply, type) "subs %[rounds], %[rounds], #1\n\tb.ne 1b\n\tsmstop"          \
                   : [rounds] "+&r"(rounds) : : SME_CLOBBERS)

/* So many times four outer products of zeros. */
static void sme_peak(size_t rounds, bool pairs) {
  if (pairs) SME_PEAK("bfmopa", ".h");
  else SME_PEAK("fmopa", ".s");
}
