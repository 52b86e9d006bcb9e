/* Step 9. Step 8 on several threads: A is packed by all together, B by each alone. */
#include "gelu.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { KC = 384, NC = 240 / NR * NR, MC = 960 / MR * MR, MOST = 64 };

int threads = 1;  // at most MOST; set before linear_gelu is called

static _Alignas(64) float a_block[MC * KC], b_blocks[MOST][NC * KC];
static atomic_int arrived, passed;
static atomic_size_t claimed;

/* Nobody goes on until all are here. */
static void barrier(void) {
  const int before = atomic_load(&passed);
  if (atomic_fetch_add(&arrived, 1) + 1 == threads) {
    atomic_store(&arrived, 0);
    atomic_fetch_add(&passed, 1);
  } else {
    while (atomic_load(&passed) == before) sched_yield();
  }
}

static void block(float *out, const float *b_block, size_t N, size_t mc, size_t nc, size_t kc, int first, int last) {
  for (size_t j = 0; j < nc; j += NR) {
    for (size_t i = 0; i < mc; i += MR) {
      vf sum[MR][NRV];
      tile(sum, a_block + i * kc, 1, MR, b_block + j * kc, NR, kc);
      if (i + MR <= mc && j + NR <= nc) {
        finish(out + i * N + j, N, sum, first, last);
      } else {
        finish_edge(out + i * N + j, N, sum, min(MR, mc - i), min(NR, nc - j), first, last);
      }
    }
  }
}

struct Part {
  float *out;
  const float *inp, *weight;
  size_t M, N, K;
  int thread;
};

static void *work(void *argument) {
  const struct Part *p = argument;
  const size_t M = p->M, N = p->N, K = p->K, thread = (size_t)p->thread, all = (size_t)threads;
  /* Chunks of whole tiles, at most NC wide, and as many for one thread as for the other. */
  const size_t chunks = ((N + NC - 1) / NC + all - 1) / all * all;
  const size_t width = ((N + chunks - 1) / chunks + NR - 1) / NR * NR;
  for (size_t m = 0; m < M; m += MC) {
    for (size_t k = 0; k < K; k += KC) {
      const size_t mc = min(MC, M - m), kc = min(KC, K - k), panels = (mc + MR - 1) / MR;
      barrier();  // the block of A before this one is no longer read
      if (thread == 0) atomic_store(&claimed, 0);
      const size_t begin = panels * thread / all * MR, end = min(mc, panels * (thread + 1) / all * MR);
      if (begin < end) pack_turned(a_block + begin * kc, p->inp + (m + begin) * K + k, K, end - begin, kc, MR);
      barrier();  // all of the block is there
      for (size_t n; (n = width * atomic_fetch_add(&claimed, 1)) < N;) {
        const size_t nc = min(width, N - n);
        pack_turned(b_blocks[thread], p->weight + n * K + k, K, nc, kc, NR);
        block(p->out + m * N + n, b_blocks[thread], N, mc, nc, kc, k == 0, k + kc == K);
      }
    }
  }
  return NULL;
}

/* out (M, N) = gelu(inp (M, K) · weight (N, K)ᵀ) */
void linear_gelu(float *out, const float *inp, const float *weight, size_t M, size_t N, size_t K) {
  pthread_t handles[MOST];
  struct Part parts[MOST];
  for (int thread = threads - 1; thread >= 0; thread--) {  // the caller is thread 0
    parts[thread] = (struct Part){out, inp, weight, M, N, K, thread};
    if (thread > 0 && pthread_create(&handles[thread], NULL, work, &parts[thread]) != 0) abort();
  }
  work(&parts[0]);
  for (int thread = 1; thread < threads; thread++) pthread_join(handles[thread], NULL);
}
