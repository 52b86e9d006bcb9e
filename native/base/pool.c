#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

/* Regions follow each other within microseconds while training, and waking a sleeper costs a hundred
 * of them: so a waiter spins for a while first. It must sleep in the end, or an idle trainer (and one
 * on a machine with fewer free cores than threads) would burn a core for nothing. */
enum { SPINS_BEFORE_SLEEP = 2000 };

struct Worker {
  struct Pool *pool, *alone;
  pthread_t handle;
  int thread;
  _Alignas(64) _Atomic uint64_t given;  // the region, and how many of its own numbers are claimed in it
};

struct Pool {
  int threads, created;  // now, and at first
  struct Worker *workers;
  void *block;           // that this and the workers lie in

  PoolTask *task;
  void *argument;
  bool stop;

  _Alignas(64) atomic_uint region;       // counts regions; a change wakes the helpers
  _Alignas(64) atomic_uint arrived;      // threads waiting at the barrier
  _Alignas(64) atomic_uint generation;   // counts barriers passed
  _Alignas(64) atomic_size_t claimed;

  struct PoolProfile profiles[POOL_MAX_LABELS];

  pthread_mutex_t mutex;                 // guards sleeping only
  pthread_cond_t changed;
  atomic_int sleepers;
};

static void cpu_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Makes this thread take floats below 2^-126 for zero, as operands and as results: a CPU that computes with them takes
 * up to a hundred times as long for it, and the time of a step would depend on the data. MXCSR: bit 15 flushes results,
 * bit 6 operands (Intel SDM, volume 1, 10.2.3); FPCR: bit 24 (Arm ARM, C5.2.8). */
static void flush_denormals(void) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 1u << 15 | 1u << 6);
#elif defined(__aarch64__)
  uint64_t fpcr;
  __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
  __asm__ volatile("msr fpcr, %0" : : "r"(fpcr | 1u << 24));
#endif
}

/* Returns when *word is no longer `old`. */
static void wait_while(struct Pool *pool, atomic_uint *word, unsigned old) {
  for (int spin = 0; spin < SPINS_BEFORE_SLEEP; spin++) {
    if (atomic_load_explicit(word, memory_order_acquire) != old) return;
    cpu_pause();
  }
  pthread_mutex_lock(&pool->mutex);
  atomic_fetch_add(&pool->sleepers, 1);
  while (atomic_load(word) == old) pthread_cond_wait(&pool->changed, &pool->mutex);
  atomic_fetch_sub(&pool->sleepers, 1);
  pthread_mutex_unlock(&pool->mutex);
}

/* Adds one to *word and wakes who waits for that. Sequentially consistent on purpose: a waiter counts
 * itself among the sleepers before it looks at the word a last time, we change the word before we
 * look at the sleepers, so one of the two sees the other. */
static void advance(struct Pool *pool, atomic_uint *word) {
  atomic_fetch_add(word, 1);
  if (atomic_load(&pool->sleepers) > 0) {
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
  }
}

void pool_barrier(struct Pool *pool) {
  unsigned generation = atomic_load_explicit(&pool->generation, memory_order_acquire);
  if (atomic_fetch_add(&pool->arrived, 1) + 1 == (unsigned)pool->threads) {
    atomic_store(&pool->arrived, 0);
    advance(pool, &pool->generation);
  } else {
    wait_while(pool, &pool->generation, generation);
  }
}

static void *worker_main(void *argument) {
  struct Worker *worker = argument;
  struct Pool *pool = worker->pool;
  stack_touch();
  flush_denormals();
  for (unsigned seen = 0;; seen++) {
    wait_while(pool, &pool->region, seen);
    if (pool->stop) return NULL;
    pool->task(pool->argument, worker->thread, pool->threads);
    pool_barrier(pool);
  }
}

/* Starts threads - 1 of them, while none runs. */
static void start_helpers(struct Pool *pool, int threads) {
  pool->threads = threads;
  pool->stop = false;
  atomic_store(&pool->region, 0);  // each counts the regions from its start
  for (int thread = 0; thread < pool->created; thread++) atomic_store(&pool->workers[thread].given, 0);
  for (int thread = 1; thread < threads; thread++) {
    struct Worker *worker = &pool->workers[thread];
    worker->pool = pool, worker->thread = thread;
    if (pthread_create(&worker->handle, NULL, worker_main, worker) != 0) {
      die(EXIT_BAD_DATA, "the system refuses thread %d of %d; use fewer --threads", thread, threads);
    }
  }
}

static struct Pool *pool_start(int threads) {
  enum { LINE = 64 };
  const size_t own = round_up(sizeof(struct Pool), LINE), workers = (size_t)threads * sizeof(struct Worker);
  char *block = calloc(1, LINE + own + workers);  // Windows lacks C11's aligned_alloc
  if (block == NULL) die(EXIT_BAD_DATA, "no memory left for %d threads", threads);
  char *const at = block + LINE - (uintptr_t)block % LINE;
  struct Pool *pool = (struct Pool *)(void *)at;
  pool->workers = (struct Worker *)(void *)(at + own);
  pool->block = block;
  pool->created = threads;
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->changed, NULL);
  start_helpers(pool, threads);
  return pool;
}

struct Pool *pool_create(int threads) {
  if (threads < 1 || threads > POOL_MAX_THREADS) {
    die(EXIT_USAGE, "--threads must be between 1 and %d, not %d", POOL_MAX_THREADS, threads);
  }
  flush_denormals();
  struct Pool *pool = pool_start(threads);
  for (int thread = 0; thread < threads; thread++) pool->workers[thread].alone = pool_start(1);
  return pool;
}

static void stop_helpers(struct Pool *pool) {
  pool->stop = true;
  advance(pool, &pool->region);
  for (int thread = 1; thread < pool->threads; thread++) {
    pthread_join(pool->workers[thread].handle, NULL);
  }
}

void pool_resize(struct Pool *pool, int threads) {
  if (threads == pool->threads) return;
  stop_helpers(pool);
  start_helpers(pool, threads);
}

void pool_destroy(struct Pool *pool) {
  if (pool == NULL) return;
  stop_helpers(pool);
  for (int thread = 0; thread < pool->created; thread++) pool_destroy(pool->workers[thread].alone);
  pthread_mutex_destroy(&pool->mutex);
  pthread_cond_destroy(&pool->changed);
  free(pool->block);
}

int pool_threads(const struct Pool *pool) { return pool->threads; }

struct Pool *pool_alone(struct Pool *pool, int thread) { return pool->workers[thread].alone; }

/* Labels are constants, so the same label is the same pointer, or at worst a second row. */
static struct PoolProfile *find_profile(struct Pool *pool, const char *label) {
  for (int i = 0; i < POOL_MAX_LABELS; i++) {
    struct PoolProfile *profile = &pool->profiles[i];
    if (profile->label == label) return profile;
    if (profile->label == NULL) {
      profile->label = label;
      return profile;
    }
  }
  return &pool->profiles[POOL_MAX_LABELS - 1];
}

void pool_run(struct Pool *pool, const char *label, PoolTask *task, void *argument) {
  const double started = clock_seconds();
  pool->task = task;
  pool->argument = argument;
  atomic_store_explicit(&pool->claimed, 0, memory_order_relaxed);
  advance(pool, &pool->region);
  task(argument, 0, pool->threads);
  pool_barrier(pool);
  struct PoolProfile *profile = find_profile(pool, label);
  profile->calls++;
  profile->seconds += clock_seconds() - started;
}

const struct PoolProfile *pool_profile(const struct Pool *pool, int i) {
  return i < POOL_MAX_LABELS && pool->profiles[i].label != NULL ? &pool->profiles[i] : NULL;
}

void pool_profile_reset(struct Pool *pool) { memset(pool->profiles, 0, sizeof pool->profiles); }

size_t pool_claim(struct Pool *pool) {
  return atomic_fetch_add_explicit(&pool->claimed, 1, memory_order_relaxed);
}

/* A count of another region is none of this one, so that nobody has to set hundreds of them to zero. */
size_t pool_claim_of(struct Pool *pool, int owner, size_t most) {
  const uint64_t region = atomic_load_explicit(&pool->region, memory_order_relaxed);
  _Atomic uint64_t *given = &pool->workers[owner].given;
  uint64_t count = atomic_load_explicit(given, memory_order_relaxed);
  for (;;) {
    const size_t number = count >> 32 == region ? (uint32_t)count : 0;
    if (number >= most) return most;
    if (atomic_compare_exchange_weak_explicit(given, &count, region << 32 | (number + 1), memory_order_relaxed,
                                              memory_order_relaxed)) return number;
  }
}

void pool_part(size_t count, size_t grain, int thread, int threads, size_t *begin, size_t *end) {
  size_t grains = ceil_div(count, grain);
  *begin = size_min(count, grains * (size_t)thread / (size_t)threads * grain);
  *end = size_min(count, grains * ((size_t)thread + 1) / (size_t)threads * grain);
}

struct Zero {
  char *memory;
  size_t bytes;
};

static void zero_task(void *argument, int thread, int threads) {
  const struct Zero *zero = argument;
  size_t begin, end;
  pool_part(zero->bytes, 4096, thread, threads, &begin, &end);
  memset(zero->memory + begin, 0, end - begin);
}

void pool_zero(struct Pool *pool, void *memory, size_t bytes) {
  pool_run(pool, "zero", zero_task, &(struct Zero){memory, bytes});
}
