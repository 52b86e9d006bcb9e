/* The sampler: which tokens it may draw, how often, and that it draws the same ones again. */
#include "sampler.h"

#include "check.h"
#include "util.h"

enum { MOST_V = 400, DRAWS = 4000 };

struct Setting {
  size_t V, top_k;
  double temperature, top_p;
};

static float logits[MOST_V];
static size_t order[MOST_V];

static int compare_by_logit(const void *a, const void *b) {
  const size_t x = *(const size_t *)a, y = *(const size_t *)b;
  if (logits[x] != logits[y]) return logits[x] > logits[y] ? -1 : 1;
  return x < y ? -1 : 1;
}

/* The probability of every token, by sorting: plain, and nothing like a heap. */
static void expected_distribution(const struct Setting *s, double *p) {
  for (size_t v = 0; v < s->V; v++) order[v] = v, p[v] = 0;
  qsort(order, s->V, sizeof *order, compare_by_logit);
  const size_t k = s->top_k > 0 ? size_min(s->top_k, s->V) : s->V;
  double weights[MOST_V], total = 0, reached = 0, kept_total = 0;
  for (size_t i = 0; i < k; i++) {
    weights[i] = exp((double)(logits[order[i]] - logits[order[0]]) / s->temperature);
    total += weights[i];
  }
  size_t kept = 0;
  while (kept < k && (kept == 0 || reached < s->top_p * total)) reached += weights[kept++];
  for (size_t i = 0; i < kept; i++) kept_total += weights[i];
  for (size_t i = 0; i < kept; i++) p[order[i]] = weights[i] / kept_total;
}

static struct Sampler sampler_of(const struct Setting *s, uint64_t seed) {
  static struct Candidate heap[MOST_V];
  return (struct Sampler){.temperature = s->temperature, .top_k = s->top_k, .top_p = s->top_p, .seed = seed, .heap = heap};
}

static void check_setting(const struct Setting *s, uint64_t seed) {
  char what[128];
  snprintf(what, sizeof what, "V=%zu temperature=%g top_k=%zu top_p=%g", s->V, s->temperature, s->top_k, s->top_p);
  double p[MOST_V];
  expected_distribution(s, p);
  size_t times[MOST_V] = {0};
  static int drawn[DRAWS];
  struct Sampler sampler = sampler_of(s, seed);
  for (size_t i = 0; i < DRAWS; i++) {
    drawn[i] = sampler_draw(&sampler, logits, s->V);
    if (drawn[i] < 0 || (size_t)drawn[i] >= s->V) {
      check(false, "%s: expected a token below %zu, got %d", what, s->V, drawn[i]);
      return;
    }
    times[drawn[i]]++;
  }
  for (size_t v = 0; v < s->V; v++) {
    if (p[v] == 0) check(times[v] == 0, "%s: token %zu is excluded, yet came %zu times", what, v, times[v]);
    /* Six standard deviations, and some more where few are expected. The seeds are fixed. */
    const double mean = p[v] * DRAWS, most = 6 * sqrt(mean * (1 - p[v])) + 6;
    check(fabs((double)times[v] - mean) <= most, "%s: token %zu: expected %.0f ± %.0f times, got %zu", what, v, mean,
          most, times[v]);
  }
  sampler = sampler_of(s, seed);
  size_t differ = 0;
  for (size_t i = 0; i < DRAWS; i++) differ += sampler_draw(&sampler, logits, s->V) != drawn[i];
  check(differ == 0, "%s: the same seed drew %zu other tokens", what, differ);
  sampler = sampler_of(s, seed + 1);
  for (size_t i = 0; i < DRAWS; i++) differ += sampler_draw(&sampler, logits, s->V) != drawn[i];
  double largest = 0;
  for (size_t v = 0; v < s->V; v++) largest = fmax(largest, p[v]);
  check(differ > 0 || largest > 0.999, "%s: another seed drew the same tokens", what);
}

int main(void) {
  static const size_t sizes[] = {1, 2, 3, 10, 127, 301};
  static const double temperatures[] = {0.5, 1, 2};
  static const size_t top_ks[] = {0, 1, 2, 7, 1000};
  static const double top_ps[] = {0, 0.1, 0.5, 0.95, 1};
  uint64_t seed = 1;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (size_t v = 0; v < sizes[i]; v++) logits[v] = (float)(mix64(seed * 1000 + v) % 1000) / 200;
    if (sizes[i] > 5) logits[3] = logits[4] = logits[5];  // equals
    for (size_t k = 0; k < sizeof top_ks / sizeof *top_ks; k++) {
      for (size_t p = 0; p < sizeof top_ps / sizeof *top_ps; p++) {
        const struct Setting s = {sizes[i], top_ks[k], temperatures[seed % 3], top_ps[p]};
        check_setting(&s, seed++);
      }
    }
    /* Temperature 0: the most likely token, the first among equals. */
    struct Sampler greedy = {.temperature = 0, .top_p = 1};
    size_t best = 0;
    for (size_t v = 1; v < sizes[i]; v++) best = logits[v] > logits[best] ? v : best;
    check_number(sampler_draw(&greedy, logits, sizes[i]), (double)best, "greedy token");
  }
  /* One token far above the rest is drawn whatever the setting, and nothing overflows. */
  for (size_t v = 0; v < 50; v++) logits[v] = v == 17 ? 3e38f : -3e38f;
  struct Sampler sampler = sampler_of(&(struct Setting){50, 0, 0.01, 0.9}, 1);
  check_number(sampler_draw(&sampler, logits, 50), 17, "a token of logit 3e38");
  return check_done("test_sampler");
}
