/* One operation on one shape, run by every table with several thread counts and held against the
 * plain table. Like dav1d's checkasm, but for the sizes: those come from the caller.
 *
 * Every buffer, input or output, ends where its last page does, and the next page cannot be touched: to
 * read or write past the end is a crash, which names the case. In front of outputs lie floats that
 * must not change. Outputs that are overwritten start as NaN, and so does scratch memory: to read what
 * was never written shows. */
#ifndef LLMC_KERNEL_CASES_H
#define LLMC_KERNEL_CASES_H

#include <signal.h>

#include "tests/check.h"
#include "kernels/kernels.h"
#include "base/disk.h"
#include "base/pages.h"
#include "base/pool.h"
#include "base/util.h"

enum { MOST_INPUTS = 8, MOST_OUTPUTS = 4, MOST_TABLES = 8, GUARD = 128 };

static const int thread_counts[] = {1, 2, 3, 7};
enum { THREAD_COUNTS = sizeof thread_counts / sizeof *thread_counts };

static struct Pool *pools[THREAD_COUNTS];

struct Memory {
  char *pages;
  size_t bytes;         // without the page that cannot be touched
  struct Array array;   // its end is the end of the pages
  float *data;          // the same, where it holds floats
  size_t count;
};

struct Case;
typedef void Call(const struct Kernels *, const struct Workers *, const struct Case *, const struct Memory *out);

struct Case {
  const char *op;
  Call *call;
  enum Dtype dtype;                    // what linear layers multiply, and arrays hold
  size_t B, T, C, NH, V, Vp, M, N, K;  // those that the operation has; the others 0
  bool add;
  struct Memory in[MOST_INPUTS];
  size_t inputs;
  const int *ids;
  struct AdamW adamw;
  struct Dropout dropout;
  enum MomentsType moments;
  struct Memory initial[MOST_OUTPUTS];  // what the outputs hold before
  const char *names[MOST_OUTPUTS];
  double tolerances[MOST_OUTPUTS];
  size_t outputs;
};

/* ---- random numbers ------------------------------------------------------------------------------ */

static uint64_t random_state = 1;

static inline double random_unit(void) { return (double)(mix64(random_state++) >> 11) * 0x1p-53; }
static inline size_t random_below(size_t n) { return (size_t)(random_unit() * (double)n); }

/* ---- memory -------------------------------------------------------------------------------------- */

static inline struct Memory memory_take(size_t count, enum Dtype dtype) {
  const size_t page = pages_size(), size = count * dtype_size(dtype);
  struct Memory m = {.count = count, .bytes = round_up(size + GUARD, page)};
  m.pages = pages_take(m.bytes + page);
  if (m.pages == NULL || !pages_guard(m.pages + m.bytes, page)) {
    fputs("failed: the system has no memory for a case\n", stderr);
    exit(1);
  }
  m.array = (struct Array){m.pages + m.bytes - size, dtype};
  if (dtype == FP32) m.data = m.array.data;
  return m;
}

static inline void memory_free(struct Memory *m) {
  pages_free(m->pages, m->bytes + pages_size());
}

static inline void fill_nan(const struct Memory *m) {
  for (size_t i = 0; i < m->count; i++) array_set(m->array, i, NAN);
}

enum { GUARD_BYTE = 0xa5 };

static inline void guard_write(const struct Memory *m) { memset((char *)m->array.data - GUARD, GUARD_BYTE, GUARD); }

static inline bool guard_holds(const struct Memory *m) {
  const unsigned char *data = m->array.data;
  for (size_t i = 1; i <= GUARD; i++) {
    if (*(data - i) != GUARD_BYTE) return false;
  }
  return true;
}

/* ---- what is running now, for messages and for the handler of crashes --------------------------- */

static char now[256];

static inline void describe(const struct Case *c, const char *table, int threads) {
  int length = snprintf(now, sizeof now, "%s of %s in %s, %d threads,", c->op, table, dtype_name(c->dtype), threads);
  const struct { const char *name; size_t value; } dimensions[] = {
      {"B", c->B}, {"T", c->T}, {"C", c->C}, {"NH", c->NH}, {"V", c->V},
      {"Vp", c->Vp}, {"M", c->M}, {"N", c->N}, {"K", c->K}};
  for (size_t i = 0; i < sizeof dimensions / sizeof *dimensions; i++) {
    if (dimensions[i].value == 0) continue;
    length += snprintf(now + length, sizeof now - (size_t)length, " %s=%zu", dimensions[i].name, dimensions[i].value);
  }
}

static inline void on_crash(int number) {
  static const char before[] = "failed: memory that is not its own was touched by ";
  disk_write(DISK_STDERR, before, sizeof before - 1, -1);
  disk_write(DISK_STDERR, now, strlen(now), -1);
  disk_write(DISK_STDERR, "\n", 1, -1);
  (void)number;
  _Exit(1);
}

/* ---- building a case ----------------------------------------------------------------------------- */

/* Whether the case that is built next is left out: of all comparisons, one in LLMC_TEST_EVERY is made, the same
 * ones each time. Under an emulator all of them would take minutes, and so would their inputs. */
static bool left_out;

static inline void case_next(void) {
  static uint64_t cases;
  const char *every = getenv("LLMC_TEST_EVERY");
  const uint64_t n = every != NULL ? strtoull(every, NULL, 10) : 0;
  left_out = n > 1 && mix64(cases++) % n != 0;
}

/* The case that is built next is run whatever LLMC_TEST_EVERY says: who runs one without case_check says so. */
static inline void case_always(void) { left_out = false; }

/* The next input: n random numbers in shift - 1 … shift + 1, as floats or in the case's type. */
static inline struct Array case_array(struct Case *c, size_t n, double shift, enum Dtype dtype) {
  struct Memory *m = &c->in[c->inputs++];
  *m = memory_take(n, dtype);
  for (size_t i = 0; i < n && !left_out; i++) array_set(m->array, i, (float)(2 * random_unit() - 1 + shift));
  return m->array;
}

static inline float *case_input(struct Case *c, size_t n, double shift) { return case_array(c, n, shift, FP32).data; }

enum Before { OVERWRITTEN, ADDED_TO };

/* The next output. The tolerance bounds the norm of the difference over the norm of the plain result. */
static inline struct Array case_result(struct Case *c, const char *name, size_t n, enum Before before,
                                       double tolerance, enum Dtype dtype) {
  struct Memory *m = &c->initial[c->outputs];
  *m = memory_take(n, dtype);
  for (size_t i = 0; i < n && !left_out; i++) {
    array_set(m->array, i, before == ADDED_TO ? (float)(2 * random_unit() - 1) : NAN);
  }
  c->names[c->outputs] = name;
  c->tolerances[c->outputs++] = tolerance;
  return m->array;
}

static inline float *case_output(struct Case *c, const char *name, size_t n, enum Before before, double tolerance) {
  return case_result(c, name, n, before, tolerance, FP32).data;
}

static inline void case_free(struct Case *c) {
  for (size_t i = 0; i < c->inputs; i++) memory_free(&c->in[i]);
  for (size_t i = 0; i < c->outputs; i++) memory_free(&c->initial[i]);
  case_next();
}

/* ---- running a case ------------------------------------------------------------------------------ */

static inline void scratch_resize(struct Memory *scratch, size_t floats) {
  if (scratch->pages != NULL && scratch->count == floats) return;
  if (scratch->pages != NULL) memory_free(scratch);
  *scratch = memory_take(floats, FP32);
  fill_nan(scratch);
}

/* Runs it once; out are fresh buffers, which the caller frees. */
static inline void case_run(const struct Case *c, const struct Kernels *kernels, int pool, struct Memory *out) {
  /* Scratch of each table and pool; taken anew only when another size is asked for. */
  static struct Memory shared[MOST_TABLES], own[MOST_TABLES][THREAD_COUNTS], sums;
  int table = 0;
  if (left_out) fputs("failed: a case without its inputs is run: case_always() is missing\n", stderr), exit(1);
  while (kernels_at(table) != kernels) table++;
  const size_t per_thread = kernels->own_floats(c->T > 0 ? c->T : 1, c->NH > 0 ? c->C / c->NH : 1);
  const size_t largest = size_max(size_max(c->M, c->N), c->K);
  scratch_resize(&shared[table], kernels->shared_floats(size_max(largest, 1)));
  scratch_resize(&own[table][pool], per_thread * (size_t)thread_counts[pool]);
  if (c->dtype == BF16) scratch_resize(&sums, c->M * c->N);
  for (size_t i = 0; i < c->outputs; i++) {
    out[i] = memory_take(c->initial[i].count, c->initial[i].array.dtype);
    guard_write(&out[i]);
    memcpy(out[i].array.data, c->initial[i].array.data, out[i].count * dtype_size(out[i].array.dtype));
  }
  describe(c, kernels->name, thread_counts[pool]);
  const struct Workers workers = {.pool = pools[pool], .dtype = c->dtype, .shared = shared[table].data,
                                  .own = own[table][pool].data, .own_floats = per_thread, .sums = sums.data};
  c->call(kernels, &workers, c, out);
  for (size_t i = 0; i < c->outputs; i++) {
    check(guard_holds(&out[i]), "%s: wrote in front of %s", now, c->names[i]);
  }
}

static inline double difference(const struct Memory *got, const struct Memory *expected) {
  double above = 0, below = 0;
  for (size_t i = 0; i < got->count; i++) {
    double e = array_get(expected->array, i), d = array_get(got->array, i) - e;
    above += d * d, below += e * e;
  }
  return sqrt(above) / (below > 0 ? sqrt(below) : 1);
}

/* The tables that take part: runnable ones, or the one that LLMC_TEST_ISA names. Says what is left out. */
static inline size_t tables_under_test(const struct Kernels *tables[MOST_TABLES]) {
  const char *only = getenv("LLMC_TEST_ISA");
  size_t count = 0;
  for (int i = 0; kernels_at(i) != NULL; i++) {
    const struct Kernels *kernels = kernels_at(i);
    const bool wanted = only == NULL || *only == '\0' || strcmp(only, kernels->name) == 0;
    if (wanted && kernels_runnable(kernels)) tables[count++] = kernels;
    else printf("skipped %s: %s\n", kernels->name, wanted ? "this CPU cannot run it" : "LLMC_TEST_ISA leaves it out");
  }
  check(count > 0, "no table to test: LLMC_TEST_ISA=%s", only != NULL ? only : "");
  return count;
}

/* Compares outputs with those of the plain loops (within), with those of one thread (bit by bit), or only asks
 * that a NaN is where the plain loops have one. */
enum Comparison { CLOSE, NAN_REACHES };

static inline void case_compare(const struct Case *c, enum Comparison comparison) {
  if (left_out) return;
  static const struct Kernels *tables[MOST_TABLES];
  static size_t count;
  if (count == 0) count = tables_under_test(tables);
  struct Memory expected[MOST_OUTPUTS], first[MOST_OUTPUTS], got[MOST_OUTPUTS];
  /* More than one thread: another count each time, since there are many cases of every operation. */
  static int turn;
  const int several = 1 + turn++ % (THREAD_COUNTS - 1);
  case_run(c, kernels_at(0), 0, expected);
  for (size_t t = 0; t < count; t++) {
    for (int run = 0; run < (comparison == CLOSE ? 2 : 1); run++) {
      const int pool = run == 0 ? 0 : several;
      struct Memory *out = pool == 0 ? first : got;
      case_run(c, tables[t], pool, out);
      for (size_t i = 0; i < c->outputs; i++) {
        const size_t n = out[i].count;
        if (comparison == NAN_REACHES) {
          size_t at = 0;
          while (at < n && !(isnan(array_get(expected[i].array, at)) && !isnan(array_get(out[i].array, at)))) at++;
          check(at == n, "%s: expected NaN in %s[%zu] of %zu, got %g", now, c->names[i], at, n,
                at < n ? (double)array_get(out[i].array, at) : 0);
        } else if (pool == 0) {
          const double error = difference(&out[i], &expected[i]);
          check(error <= c->tolerances[i], "%s: expected %s within %g of the plain loops, got %g", now,
                c->names[i], c->tolerances[i], error);
        } else {
          check(memcmp(out[i].array.data, first[i].array.data, n * dtype_size(out[i].array.dtype)) == 0,
                "%s: expected the bits of one thread in %s, got others", now, c->names[i]);
        }
      }
      for (size_t i = 0; pool > 0 && i < c->outputs; i++) memory_free(&got[i]);
    }
    for (size_t i = 0; i < c->outputs; i++) memory_free(&first[i]);
  }
  for (size_t i = 0; i < c->outputs; i++) memory_free(&expected[i]);
}

/* The whole check of one case. A NaN in an input has to reach the outputs that it reaches in the
 * plain loops, whatever bits the NaN is made of: a file may bring any. */
static inline void case_check(struct Case *c) {
  static const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7fc00001, 0xffffffff, 0x7fd55555};
  case_compare(c, CLOSE);
  const struct Memory *in = &c->in[random_below(c->inputs)];
  const uint32_t bits = nans[random_below(sizeof nans / sizeof *nans)];
  const uint16_t upper = (uint16_t)(bits >> 16);
  const struct Array at = array_at(in->array, random_below(in->count));
  memcpy(at.data, at.dtype == BF16 ? (const void *)&upper : &bits, dtype_size(at.dtype));
  case_compare(c, NAN_REACHES);
  case_free(c);
}

static inline void cases_start(void) {
  signal(SIGSEGV, on_crash);
#ifdef SIGBUS
  signal(SIGBUS, on_crash);
#endif
  for (int i = 0; i < THREAD_COUNTS; i++) pools[i] = pool_create(thread_counts[i]);
  case_next();
}

static inline void cases_stop(void) {
  for (int i = 0; i < THREAD_COUNTS; i++) pool_destroy(pools[i]);
}

#endif
