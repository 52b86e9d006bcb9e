#include "sample/sampler.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

void sampler_layout(struct Sampler *sampler, struct Arena *arena, const struct Kernels *kernels, size_t V,
                    int threads) {
  const size_t numbers = size_product(V, (size_t)threads);
  sampler->kernels = kernels;
  sampler->V = V;
  sampler->scores = arena_alloc(arena, numbers, sizeof *sampler->scores);
  sampler->weights = arena_alloc(arena, numbers, sizeof *sampler->weights);
  sampler->candidates = arena_alloc(arena, numbers, sizeof *sampler->candidates);
}

struct Sampler sampler_at(const struct Sampler *all, int thread) {
  const size_t at = (size_t)thread * all->V;
  struct Sampler own = *all;
  own.scores += at, own.weights += at, own.candidates += at;
  return own;
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

size_t sampler_top(struct Candidate *top, size_t count, const float *logits, size_t V) {
  size_t have = 0;
  for (size_t v = 0; v < V && count > 0; v++) {
    if (logits[v] == -FLT_MAX) continue;  // excluded
    if (have == count && logits[v] <= top[have - 1].number) continue;
    size_t at = have < count ? have++ : have - 1;
    for (; at > 0 && logits[v] > top[at - 1].number; at--) top[at] = top[at - 1];
    top[at] = (struct Candidate){logits[v], (int)v};
  }
  return have;
}

/* One range, first-last; behind it the next one, or NULL at the end. */
static const char *next_range(const char *at, size_t *first, size_t *last) {
  char *end;
  *first = strtoul(at, &end, 10);
  *last = strtoul(end + 1, &end, 10);
  return *end == ',' ? end + 1 : NULL;
}

/* Past the digits of a number, NULL where there are none. */
static const char *past_digits(const char *at) {
  const char *end = at;
  while (isdigit((unsigned char)*end)) end++;
  return end == at || end - at > 10 ? NULL : end;
}

const char *sampler_unused_fault(const char *ranges, size_t V) {
  for (const char *at = ranges, *end; at != NULL;) {
    size_t first, last;
    if ((end = past_digits(at)) == NULL || *end != '-' || (end = past_digits(end + 1)) == NULL) return at;
    if (*end != ',' && *end != '\0') return at;
    const char *range = at;
    at = next_range(at, &first, &last);
    if (first > last || last >= V) return range;
  }
  return NULL;
}

void sampler_exclude(float *logits, const char *ranges) {
  while (ranges != NULL) {
    size_t first, last;
    ranges = next_range(ranges, &first, &last);
    for (size_t v = first; v <= last; v++) logits[v] = -FLT_MAX;
  }
}

double sampler_log_sum(const struct Sampler *sampler, const float *logits, size_t V) {
  const float max = sampler->kernels->row_largest(logits, V);
  return (double)max + log(sampler->kernels->row_exponentials(NULL, logits, max, 1, V));
}

/* The first of the largest. */
static int most_likely(const struct Sampler *sampler, const float *logits, size_t V) {
  const float max = sampler->kernels->row_largest(logits, V);
  size_t v = 0;
  while (v + 1 < V && logits[v] != max) v++;
  return (int)v;
}

/* ---- filters ------------------------------------------------------------------------------------ */

/* The bits of a float, so that they count up as the numbers do, and the highest of them: a bucket of numbers that
 * lie close together, eight buckets to a power of two. */
enum { BUCKET_SHIFT = 20, BUCKETS = 1 << (32 - BUCKET_SHIFT), FROM_0_TO_1 = (0x3f800000 >> BUCKET_SHIFT) + 1 };

static size_t bucket_of(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return (bits >> 31 ? ~bits : bits | 1u << 31) >> BUCKET_SHIFT;
}

/* The k-th largest: it is in the bucket in which the count from above reaches k, and only that one is put in
 * order. */
static float kth_largest(struct Candidate *candidates, const float *scores, size_t V, size_t k) {
  uint32_t counts[BUCKETS] = {0};
  for (size_t v = 0; v < V; v++) counts[bucket_of(scores[v])]++;
  size_t border = BUCKETS - 1;
  for (; border > 0 && counts[border] < k; border--) k -= counts[border];
  size_t count = 0;
  for (size_t v = 0; v < V; v++) {
    if (bucket_of(scores[v]) == border) candidates[count++] = (struct Candidate){scores[v], (int)v};
  }
  heap_make(candidates, count);
  float last = -INFINITY;
  for (size_t i = 0; i < size_min(k, count); i++) last = heap_pop(candidates, count - i).number;
  return last;
}

/* Leaves the fewest largest weights whose sum reaches p of the whole (Holtzman et al. 2020), one at least. Again
 * only one bucket is put in order. */
static void keep_top_p(struct Sampler *sampler, size_t V, double p) {
  double sums[FROM_0_TO_1] = {0}, whole = 0, reached = 0;
  const size_t zero = bucket_of(0);
  float *weights = sampler->weights;
  for (size_t v = 0; v < V; v++) sums[bucket_of(weights[v]) - zero] += (double)weights[v];
  for (size_t b = 0; b < FROM_0_TO_1; b++) whole += sums[b];
  size_t border = FROM_0_TO_1 - 1;
  while (border > 0 && (sums[border] == 0 || reached + sums[border] < p * whole)) reached += sums[border--];

  size_t count = 0;
  for (size_t v = 0; v < V; v++) {
    const size_t bucket = bucket_of(weights[v]) - zero;
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
static void penalize_seen(float *scores, const uint8_t *seen, size_t V, float penalty) {
  for (size_t v = 0; v < V; v++) {
    const float x = scores[v];
    if (seen[v]) scores[v] = x < 0 ? x * penalty : x / penalty;
  }
}

/* A token that was written becomes less likely, once and each time (OpenAI's API). */
static void penalize_written(float *scores, const uint32_t *written, size_t V, double presence, double frequency) {
  for (size_t v = 0; v < V; v++) {
    if (written[v] > 0) scores[v] -= (float)(presence + frequency * written[v]);
  }
}

static const float *scores_of(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                              struct Past past, size_t V) {
  const bool repeats = sampling->repetition_penalty != 1;
  const bool counts = sampling->frequency_penalty != 0 || sampling->presence_penalty != 0;
  if (!repeats && !counts && sampling->bias_count == 0) return logits;
  float *scores = memcpy(sampler->scores, logits, V * sizeof *scores);
  for (size_t i = 0; i < sampling->bias_count; i++) scores[sampling->biases[i].token] += sampling->biases[i].added;
  if (repeats) penalize_seen(scores, past.seen, V, (float)sampling->repetition_penalty);
  if (counts) penalize_written(scores, past.written, V, sampling->presence_penalty, sampling->frequency_penalty);
  return scores;
}

/* In four parts, which wait for each other less. */
static double sum_of(const float *weights, size_t n) {
  double sum[4] = {0};
  for (size_t i = 0; i < n; i++) sum[i % 4] += (double)weights[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

double sampler_filter(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                      struct Past past, size_t V) {
  const float *scores = scores_of(sampler, sampling, logits, past, V);
  float *weights = sampler->weights;
  if (sampling->temperature == 0) {
    memset(weights, 0, V * sizeof *weights);
    weights[most_likely(sampler, scores, V)] = 1;
    return 1;
  }
  const float max = sampler->kernels->row_largest(scores, V), scale = (float)fmin(1 / sampling->temperature, FLT_MAX);
  sampler->kernels->row_exponentials(weights, scores, max, scale, V);
  if (sampling->top_k > 0 && sampling->top_k < V) {  // all equals of the k-th stay
    const float least = kth_largest(sampler->candidates, scores, V, sampling->top_k);
    for (size_t v = 0; v < V; v++) weights[v] = scores[v] >= least ? weights[v] : 0;
  }
  if (sampling->top_p < 1) keep_top_p(sampler, V, sampling->top_p);
  if (sampling->min_p > 0) {  // the largest weight is 1
    for (size_t v = 0; v < V; v++) weights[v] = weights[v] >= (float)sampling->min_p ? weights[v] : 0;
  }
  return sum_of(weights, V);
}

/* ---- a draw ------------------------------------------------------------------------------------- */

/* 53 random bits as a number in [0, 1) */
static double uniform(uint64_t seed, uint64_t draw) {
  return (double)(mix64(mix64(seed) + draw) >> 11) * 0x1p-53;
}

int sampler_draw(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                 struct Past past, size_t V, uint64_t draw) {
  if (sampling->temperature == 0) return most_likely(sampler, scores_of(sampler, sampling, logits, past, V), V);
  enum { RUN = 512 };  // tokens to skip at once
  double left = uniform(sampling->seed, draw) * sampler_filter(sampler, sampling, logits, past, V), run;
  const float *weights = sampler->weights;
  size_t begin = 0;
  for (; begin + RUN < V && (run = sum_of(weights + begin, RUN)) <= left; begin += RUN) left -= run;
  size_t token = V;
  for (size_t v = begin; v < V; v++) {
    if (weights[v] == 0) continue;
    token = v;
    left -= (double)weights[v];
    if (left < 0) break;
  }
  while (token == V || weights[token] == 0) token--;  // where rounding leaves a crumb, the last one takes it
  return (int)token;
}
