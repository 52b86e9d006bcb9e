#include "sampler.h"

#include <math.h>

#include "util.h"

void sampler_layout(struct Sampler *sampler, struct Arena *arena, size_t V) {
  sampler->heap = arena_alloc(arena, V, sizeof *sampler->heap);
}

/* More likely first; the lower token among equals, so that the order is total. */
static bool before(struct Candidate a, struct Candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
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

/* Takes the most likely candidate off the heap and puts it behind the rest. */
static struct Candidate pop(struct Candidate *heap, size_t count) {
  struct Candidate top = heap[0];
  heap[0] = heap[count - 1];
  heap[count - 1] = top;
  sift_down(heap, 0, count - 1);
  return top;
}

static int most_likely(const float *logits, size_t V) {
  size_t best = 0;
  for (size_t v = 1; v < V; v++) best = logits[v] > logits[best] ? v : best;
  return (int)best;
}

/* 53 random bits as a number in [0, 1) */
static double uniform(struct Sampler *sampler) {
  uint64_t bits = mix64(mix64(sampler->seed) + sampler->draws++);
  return (double)(bits >> 11) * 0x1p-53;
}

int sampler_draw(struct Sampler *sampler, const float *logits, size_t V) {
  if (sampler->temperature == 0) return most_likely(logits, V);
  const double top = (double)logits[most_likely(logits, V)];
  struct Candidate *heap = sampler->heap;
  for (size_t v = 0; v < V; v++) heap[v] = (struct Candidate){logits[v], (int)v};

#define WEIGHT(candidate) exp(((double)(candidate).logit - top) / sampler->temperature)
  const size_t k = sampler->top_k > 0 ? size_min(sampler->top_k, V) : V;
  size_t kept = V;  // candidates, kept at the end of the array, the most likely last
  if (k < V || sampler->top_p < 1) {
    for (size_t at = V / 2; at-- > 0;) sift_down(heap, at, V);
    double total = 0, sum = 0;
    if (k == V) {
      for (size_t v = 0; v < V; v++) total += WEIGHT(heap[v]);
    } else {
      for (size_t i = 0; i < k; i++) total += WEIGHT(pop(heap, V - i));
    }
    kept = 0;
    while (kept < k && (kept == 0 || sum < sampler->top_p * total)) {
      struct Candidate next = k == V ? pop(heap, V - kept) : heap[V - 1 - kept];
      sum += WEIGHT(next);
      kept++;
    }
  }
  double total = 0;
  for (size_t i = 0; i < kept; i++) total += WEIGHT(heap[V - 1 - i]);
  double draw = uniform(sampler) * total;
  for (size_t i = 0; i < kept; i++) {
    draw -= WEIGHT(heap[V - 1 - i]);
    if (draw < 0) return heap[V - 1 - i].token;
  }
#undef WEIGHT
  return most_likely(logits, V);  // rounding left a crumb: the most likely token takes it
}
