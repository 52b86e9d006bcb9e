/* The engine's threads: made once, then woken for one parallel region after another. */
#ifndef LLMC_POOL_H
#define LLMC_POOL_H

#include <stddef.h>

struct Pool;

/* What every thread runs in a region; `thread` counts from 0 to threads - 1. */
typedef void PoolTask(void *argument, int thread, int threads);

enum { POOL_MAX_THREADS = 256 };

/* Starts threads - 1 helpers; the caller is thread 0. Dies when the system refuses a thread. From then on the caller
 * and the helpers take floats below 2^-126 for zero. */
struct Pool *pool_create(int threads);
void pool_destroy(struct Pool *pool);
int pool_threads(const struct Pool *pool);

/* Changes the number of threads, to at most the number at creation. Between regions only. */
void pool_resize(struct Pool *pool, int threads);

/* Runs the task once on every thread and returns when all have returned. The time is booked under the
 * label, a string constant. */
void pool_run(struct Pool *pool, const char *label, PoolTask *task, void *argument);

/* What the regions of one label took so far, since pool_profile_reset. */
struct PoolProfile {
  const char *label;
  size_t calls;
  double seconds;
};

enum { POOL_MAX_LABELS = 32 };

/* The i-th label's profile, in the order of their first region; NULL after the last. */
const struct PoolProfile *pool_profile(const struct Pool *pool, int i);
void pool_profile_reset(struct Pool *pool);

/* Inside a region: no thread goes on until all are here. */
void pool_barrier(struct Pool *pool);

/* Inside a region: the next number of 0, 1, 2, …, each given out once. */
size_t pool_claim(struct Pool *pool);

/* Inside a region: the next number of 0, 1, 2, … below `most` that the thread `owner` has to give, each given out once in
 * the region; `most` when there is none left. */
size_t pool_claim_of(struct Pool *pool, int owner, size_t most);

/* Inside a region: a pool of this thread alone, for regions within the region. It is another one than `pool` even where that
 * has one thread, because a pool runs one region at a time. */
struct Pool *pool_alone(struct Pool *pool, int thread);

/* Fills `bytes` bytes with zero, each thread its own part: also the first touch of fresh pages. */
void pool_zero(struct Pool *pool, void *memory, size_t bytes);

/* The half-open part [*begin, *end) of `count` items that is this thread's, in multiples of `grain`. */
void pool_part(size_t count, size_t grain, int thread, int threads, size_t *begin, size_t *end);

#endif
