/* The thread pool: every region runs on every thread, barriers hold, numbers are given out once. */
#include "base/pool.h"

#include <fenv.h>
#include <stdatomic.h>

#include "tests/check.h"
#include "base/util.h"

enum { ROUNDS = 300, CLAIMS = 100, BARRIERS = 5, MOST = 8 };

/* Results and operands below 2^-126 are zero on every thread, so that no step takes longer for them. */
static void tiny_products(void *argument, int thread, int threads) {
  float *products = argument;
  volatile float tiny = 1e-30f, factor = 1e-10f, subnormal = 1e-40f;
  products[2 * thread] = tiny * factor;
  products[2 * thread + 1] = subnormal * 1e30f;
  (void)threads;
}

static void check_denormals(int threads) {
  struct Pool *pool = pool_create(threads);
  float products[2 * MOST];
  for (int i = 0; i < 2 * MOST; i++) products[i] = 1;
  pool_run(pool, "denormals", tiny_products, products);
  for (int i = 0; i < 2 * threads; i++) {
    check(products[i] == 0, "thread %d of %d: expected a %s below 2^-126 to be taken for zero, got %g", i / 2, threads,
          i % 2 ? "factor" : "product", (double)products[i]);
  }
  /* Helpers do so themselves: on Linux they would have it from the thread that starts them. */
  fesetenv(FE_DFL_ENV);
  pool_resize(pool, 1), pool_resize(pool, threads);
  for (int i = 0; i < 2 * MOST; i++) products[i] = 1;
  pool_run(pool, "denormals", tiny_products, products);
  for (int i = 2; i < 2 * threads; i++) {
    check(products[i] == 0, "thread %d of %d computes with numbers below 2^-126, got %g", i / 2, threads, (double)products[i]);
  }
  pool_destroy(pool);
}

struct Region {
  struct Pool *pool;
  atomic_int ran[MOST];            // times each thread ran
  atomic_int wrong;                // numbers of threads that were not what they had to be
  int stage[MOST];                 // plain on purpose: barriers have to order these
  atomic_int behind;               // threads seen in another stage, after a barrier
  atomic_int claimed[CLAIMS];      // how often each number was given out
  atomic_int given[MOST][CLAIMS];  // and each of a thread's own
};

struct Alone {
  struct Pool *pool;
  int *sum;
};

static void region_alone(void *argument, int thread, int threads) {
  const struct Alone *alone = argument;
  if (thread != 0 || threads != 1) return;
  while (pool_claim(alone->pool) < CLAIMS) ++*alone->sum;
  pool_barrier(alone->pool);
}

static void region(void *argument, int thread, int threads) {
  struct Region *r = argument;
  if (thread < 0 || thread >= threads || threads != pool_threads(r->pool)) {
    atomic_fetch_add(&r->wrong, 1);
    return;
  }
  atomic_fetch_add(&r->ran[thread], 1);
  for (size_t number; (number = pool_claim(r->pool)) < CLAIMS;) atomic_fetch_add(&r->claimed[number], 1);
  for (int i = 0; i < threads; i++) {  // half of them first, as where a region is cut into blocks
    const int owner = (thread + i) % threads;
    for (size_t most = CLAIMS / 2; most <= CLAIMS; most += CLAIMS / 2) {
      for (size_t number; (number = pool_claim_of(r->pool, owner, most)) < most;) atomic_fetch_add(&r->given[owner][number], 1);
    }
  }
  struct Pool *alone = pool_alone(r->pool, thread);
  for (int round = 1; round <= 2; round++) {  // regions within this one
    int within = thread;
    pool_run(alone, "alone", region_alone, &(struct Alone){alone, &within});
    if (within != thread + CLAIMS) atomic_fetch_add(&r->wrong, 1);
  }
  for (int stage = 1; stage <= BARRIERS; stage++) {
    r->stage[thread] = stage;
    pool_barrier(r->pool);
    for (int other = 0; other < threads; other++) {
      if (r->stage[other] != stage) atomic_fetch_add(&r->behind, 1);
    }
    pool_barrier(r->pool);
  }
}

static void check_region(int threads, bool sleeping) {
  struct Pool *pool = pool_create(threads);
  check(pool_threads(pool) == threads, "pool_threads: expected %d, got %d", threads, pool_threads(pool));
  struct Region r = {.pool = pool};
  const int rounds = sleeping ? 20 : ROUNDS;
  for (int round = 0; round < rounds; round++) {
    if (sleeping) clock_wait(2);  // the helpers have given up spinning
    pool_run(pool, "test", region, &r);
    for (int thread = 0; thread < threads; thread++) {
      check(r.ran[thread] == round + 1, "thread %d of %d: expected %d runs, got %d", thread, threads, round + 1,
            r.ran[thread]);
    }
  }
  check(r.wrong == 0, "%d threads: %d were given a number or a count that is not theirs", threads, r.wrong);
  check(r.behind == 0, "%d threads: %d times a thread was not at the barrier that another had passed", threads, r.behind);
  for (int number = 0; number < CLAIMS; number++) {
    check(r.claimed[number] == rounds, "%d threads, claim %d: expected %d times, got %d", threads, number, rounds,
          r.claimed[number]);
    for (int owner = 0; owner < threads; owner++) {
      check(r.given[owner][number] == rounds, "%d threads, claim %d of thread %d: expected %d times, got %d", threads, number,
            owner, rounds, r.given[owner][number]);
    }
  }
  pool_destroy(pool);
}

static void check_zero(int threads) {
  struct Pool *pool = pool_create(threads);
  static char memory[40000];
  static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 12288, 30001};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    memset(memory, 7, sizeof memory);
    pool_zero(pool, memory + 1, sizes[i]);
    size_t zeros = 0;
    for (size_t at = 0; at < sizes[i]; at++) zeros += memory[1 + at] == 0;
    check(zeros == sizes[i], "pool_zero, %d threads: expected %zu zeros, got %zu", threads, sizes[i], zeros);
    check(memory[0] == 7 && memory[1 + sizes[i]] == 7, "pool_zero of %zu bytes, %d threads: wrote beside them",
          sizes[i], threads);
  }
  pool_destroy(pool);
}

/* The parts follow each other without a gap, in multiples of the grain, and are nearly equal. */
static void check_part(size_t count, size_t grain, int threads) {
  size_t next = 0, least = SIZE_MAX, most = 0;
  for (int thread = 0; thread < threads; thread++) {
    size_t begin, end;
    pool_part(count, grain, thread, threads, &begin, &end);
    check(begin == next && end >= begin, "pool_part of %zu by %zu, thread %d of %d: expected to begin at %zu, got %zu to %zu",
          count, grain, thread, threads, next, begin, end);
    check(begin % grain == 0 || begin == count, "pool_part of %zu by %zu begins at %zu", count, grain, begin);
    least = size_min(least, end - begin), most = size_max(most, end - begin);
    next = end;
  }
  check(next == count, "pool_part of %zu by %zu: expected the last to end there, got %zu", count, grain, next);
  check(most - least < 2 * grain, "pool_part of %zu by %zu over %d: parts of %zu to %zu", count, grain, threads, least, most);
}

int main(void) {
  for (int threads = 1; threads <= MOST; threads++) {  // more than the machine has, perhaps
    check_region(threads, false);
    check_zero(threads);
    check_denormals(threads);
    for (size_t count = 0; count < 70; count++) check_part(count, 1, threads), check_part(count, 16, threads);
    check_part(124439808, 16, threads);
  }
  check_region(2, true);
  check_region(5, true);
  return check_done("test_pool");
}
