#include "sampler.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "util.h"

void sampler_layout(struct Sampler *sampler, struct Arena *arena, size_t V) {
  sampler->scores = arena_alloc(arena, V, sizeof *sampler->scores);
  sampler->weights = arena_alloc(arena, V, sizeof *sampler->weights);
  sampler->candidates = arena_alloc(arena, V, sizeof *sampler->candidates);
}

/* ---- the largest first -------------------------------------------------------------------------- */

/* The later token among equals, as transformers' ascending sort has it: so the order is total. */
static bool before(struct Candidate a, struct Candidate b) {
  return a.number > b.number || (a.number == b.number && a.token > b.token);
}

static void sift_down(struct Candidate *heap, size_t at, size_t count) {
  struct Candidate moved = heap[at];
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && before(heap[child + 1], heap[child])) child++;
    if (!before(heap[child], moved)) break;
    heap[at] = heap[child];
  }
  heap[at] = moved;
}

static void heap_make(struct Candidate *heap, size_t count) {
  for (size_t at = count / 2; at-- > 0;) sift_down(heap, at, count);
}

/* Takes the first off the heap and puts it behind the rest. */
static struct Candidate heap_pop(struct Candidate *heap, size_t count) {
  struct Candidate top = heap[0];
  heap[0] = heap[count - 1];
  heap[count - 1] = top;
  sift_down(heap, 0, count - 1);
  return top;
}

static size_t most_likely(const float *logits, size_t V) {
  size_t best = 0;
  for (size_t v = 1; v < V; v++) best = logits[v] > logits[best] ? v : best;
  return best;
}

size_t sampler_top(struct Candidate *top, size_t count, const float *logits, size_t V) {
  size_t have = 0;
  for (size_t v = 0; v < V && count > 0; v++) {
    if (have == count && logits[v] <= top[have - 1].number) continue;
    size_t at = have < count ? have++ : have - 1;
    for (; at > 0 && logits[v] > top[at - 1].number; at--) top[at] = top[at - 1];
    top[at] = (struct Candidate){logits[v], (int)v};
  }
  return have;
}

double sampler_log_sum(const float *logits, size_t V) {
  const float max = logits[most_likely(logits, V)];
  double sum = 0;
  for (size_t v = 0; v < V; v++) sum += (double)expf(logits[v] - max) + 0 * (double)logits[v];
  return (double)max + log(sum);
}

/* ---- filters ------------------------------------------------------------------------------------ */

/* The k-th largest of them. */
static float kth_largest(struct Candidate *heap, const float *scores, size_t V, size_t k) {
  for (size_t v = 0; v < V; v++) heap[v] = (struct Candidate){scores[v], (int)v};
  heap_make(heap, V);
  float last = scores[0];
  for (size_t i = 0; i < k; i++) last = heap_pop(heap, V - i).number;
  return last;
}

/* Weights are floats from 0 to 1, whose bits count up as they do: the highest of them number 1,017 buckets,
 * eight to a power of two. */
enum { BUCKET_SHIFT = 20, BUCKETS = (0x3f800000 >> BUCKET_SHIFT) + 1 };

static size_t bucket_of(float weight) {
  uint32_t bits;
  memcpy(&bits, &weight, sizeof bits);
  return bits >> BUCKET_SHIFT;
}

/* Leaves the fewest largest weights whose sum reaches p of the whole (Holtzman et al. 2020), one at least.
 * Only the bucket in which that happens is put in order. */
static void keep_top_p(struct Sampler *sampler, size_t V, double p) {
  double sums[BUCKETS] = {0}, whole = 0, reached = 0;
  float *weights = sampler->weights;
  for (size_t v = 0; v < V; v++) sums[bucket_of(weights[v])] += (double)weights[v];
  for (size_t b = 0; b < BUCKETS; b++) whole += sums[b];
  size_t border = BUCKETS - 1;
  while (border > 0 && reached + sums[border] < p * whole) reached += sums[border--];

  size_t count = 0;
  for (size_t v = 0; v < V; v++) {
    const size_t bucket = bucket_of(weights[v]);
    if (bucket == border) sampler->candidates[count++] = (struct Candidate){weights[v], (int)v};
    if (bucket <= border) weights[v] = 0;
  }
  heap_make(sampler->candidates, count);
  for (size_t kept = 0; kept < count && (reached == 0 || reached < p * whole); kept++) {
    const struct Candidate next = heap_pop(sampler->candidates, count - kept);
    weights[next.token] = next.number;
    reached += (double)next.number;
  }
}

/* A token that was seen becomes less likely, on either side of zero (Keskar et al. 2019). */
static void penalize(float *scores, const float *logits, const uint8_t *seen, size_t V, float penalty) {
  for (size_t v = 0; v < V; v++) {
    const float x = logits[v];
    scores[v] = !seen[v] ? x : x < 0 ? x * penalty : x / penalty;
  }
}

static const float *scores_of(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                              const uint8_t *seen, size_t V) {
  if (seen == NULL || sampling->repetition_penalty == 1) return logits;
  penalize(sampler->scores, logits, seen, V, (float)sampling->repetition_penalty);
  return sampler->scores;
}

double sampler_filter(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                      const uint8_t *seen, size_t V) {
  const float *scores = scores_of(sampler, sampling, logits, seen, V);
  float *weights = sampler->weights;
  const size_t best = most_likely(scores, V);
  if (sampling->temperature == 0) {
    memset(weights, 0, V * sizeof *weights);
    weights[best] = 1;
    return 1;
  }
  const float max = scores[best], scale = (float)fmin(1 / sampling->temperature, FLT_MAX);
  const bool limited = sampling->top_k > 0 && sampling->top_k < V;
  const float least = limited ? kth_largest(sampler->candidates, scores, V, sampling->top_k) : -INFINITY;
  for (size_t v = 0; v < V; v++) weights[v] = scores[v] >= least ? expf((scores[v] - max) * scale) : 0;
  if (sampling->top_p < 1) keep_top_p(sampler, V, sampling->top_p);
  if (sampling->min_p > 0) {  // the largest weight is 1
    for (size_t v = 0; v < V; v++) weights[v] = weights[v] >= (float)sampling->min_p ? weights[v] : 0;
  }
  double sum = 0;
  for (size_t v = 0; v < V; v++) sum += (double)weights[v];
  return sum;
}

/* ---- a draw ------------------------------------------------------------------------------------- */

/* 53 random bits as a number in [0, 1) */
static double uniform(uint64_t seed, uint64_t draw) {
  return (double)(mix64(mix64(seed) + draw) >> 11) * 0x1p-53;
}

int sampler_draw(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                 const uint8_t *seen, size_t V, uint64_t draw) {
  if (sampling->temperature == 0) return (int)most_likely(scores_of(sampler, sampling, logits, seen, V), V);
  double left = uniform(sampling->seed, draw) * sampler_filter(sampler, sampling, logits, seen, V);
  size_t token = 0;
  for (size_t v = 0; v < V; v++) {
    if (sampler->weights[v] == 0) continue;
    token = v;  // where rounding leaves a crumb, the last one takes it
    left -= (double)sampler->weights[v];
    if (left < 0) break;
  }
  return (int)token;
}
