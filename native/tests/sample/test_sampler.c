/* The sampler: which tokens it may draw, how often, and that it draws the same ones again. */
#include "sample/sampler.h"

#include "tests/check.h"
#include "base/util.h"

enum { MOST_V = 400, DRAWS = 4000 };

struct Setting {
  size_t V, top_k;
  double temperature, top_p, min_p, penalty, frequency, presence, bias;  // the bias of token 0
};

static int table;  // of those that this CPU can run
static float logits[MOST_V], scores[MOST_V];
static uint8_t seen[MOST_V];
static uint32_t written[MOST_V];
static size_t order[MOST_V];

static int compare_by_score(const void *a, const void *b) {
  const size_t x = *(const size_t *)a, y = *(const size_t *)b;
  if (scores[x] != scores[y]) return scores[x] > scores[y] ? -1 : 1;
  return x > y ? -1 : 1;
}

/* The probability of every token, by sorting: plain, and nothing like buckets. */
static void expected_distribution(const struct Setting *s, double *p) {
  for (size_t v = 0; v < s->V; v++) {
    const double penalty = seen[v] ? s->penalty : 1, biased = (double)logits[v] + (v == 0 ? s->bias : 0);
    scores[v] = (float)(biased < 0 ? biased * penalty : biased / penalty);
    scores[v] -= (float)(written[v] * s->frequency + (written[v] > 0) * s->presence);
    order[v] = v, p[v] = 0;
  }
  qsort(order, s->V, sizeof *order, compare_by_score);
  size_t k = s->top_k > 0 ? size_min(s->top_k, s->V) : s->V;
  while (k < s->V && scores[order[k]] == scores[order[k - 1]]) k++;  // equals of the last
  double weights[MOST_V], total = 0, reached = 0, kept_total = 0;
  for (size_t i = 0; i < k; i++) {
    weights[i] = exp((double)(scores[order[i]] - scores[order[0]]) / s->temperature);
    total += weights[i];
  }
  size_t kept = 0;
  while (kept < k && (kept == 0 || reached < s->top_p * total)) reached += weights[kept++];
  while (weights[kept - 1] < s->min_p) kept--;
  for (size_t i = 0; i < kept; i++) kept_total += weights[i];
  for (size_t i = 0; i < kept; i++) p[order[i]] = weights[i] / kept_total;
}

static struct Sampler *scratch(void) {
  static float numbers[2][MOST_V];
  static struct Candidate candidates[MOST_V];
  static struct Sampler sampler;
  sampler = (struct Sampler){kernels_at(table), numbers[0], numbers[1], candidates, MOST_V};
  return &sampler;
}

static int draw(const struct Setting *s, uint64_t seed, size_t i) {
  const struct Sampling sampling = {.temperature = s->temperature, .top_k = s->top_k, .top_p = s->top_p,
                                    .min_p = s->min_p, .repetition_penalty = s->penalty, .seed = seed,
                                    .frequency_penalty = s->frequency, .presence_penalty = s->presence,
                                    .bias_count = s->bias != 0, .biases = {{0, (float)s->bias}}};
  return sampler_draw(scratch(), &sampling, logits, (struct Past){seen, written}, s->V, i);
}

static void check_setting(const struct Setting *s, uint64_t seed) {
  char what[128];
  snprintf(what, sizeof what, "%s: V=%zu temperature=%g top_k=%zu top_p=%g min_p=%g penalty=%g",
           kernels_at(table)->name, s->V, s->temperature, s->top_k,
           s->top_p, s->min_p, s->penalty);
  double p[MOST_V];
  expected_distribution(s, p);
  size_t times[MOST_V] = {0};
  static int drawn[DRAWS];
  for (size_t i = 0; i < DRAWS; i++) {
    drawn[i] = draw(s, seed, i);
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
  size_t differ = 0;
  for (size_t i = DRAWS; i-- > 0;) differ += draw(s, seed, i) != drawn[i];
  check(differ == 0, "%s: the same seed drew %zu other tokens, backwards", what, differ);
  for (size_t i = 0; i < DRAWS; i++) differ += draw(s, seed + 1, i) != drawn[i];
  double largest = 0;
  for (size_t v = 0; v < s->V; v++) largest = fmax(largest, p[v]);
  check(differ > 0 || largest > 0.999, "%s: another seed drew the same tokens", what);
}

/* The largest by hand, and the sum of exponentials by libm. */
static void check_told(size_t V) {
  struct Candidate top[25];
  const size_t have = sampler_top(top, 25, logits, V);
  check_number((double)have, (double)size_min(V, 25), "likely tokens");
  for (size_t i = 0; i < have; i++) {
    size_t larger = 0, at = (size_t)top[i].token;
    for (size_t v = 0; v < V; v++) larger += logits[v] > logits[at] || (logits[v] == logits[at] && v < at);
    check_number((double)larger, (double)i, "tokens before a likely one");
  }
  double sum = 0;
  for (size_t v = 0; v < V; v++) sum += exp((double)logits[v]);
  const double got = sampler_log_sum(scratch(), logits, V);
  check(fabs(got - log(sum)) < 1e-6, "log-sum of %zu: expected %.9f, got %.9f", V, log(sum), got);
}

static void check_table(void) {
  static const size_t sizes[] = {1, 2, 3, 10, 127, 301};
  static const double temperatures[] = {0.5, 1, 2}, min_ps[] = {0, 0, 0.05, 0.5, 1}, penalties[] = {1, 1.3};
  static const double frequencies[] = {0, 0.5, -0.2}, presences[] = {0, 0.3, 0, -1}, biases[] = {0, 0, 0, 3, -100};
  static const size_t top_ks[] = {0, 1, 2, 7, 1000};
  static const double top_ps[] = {0, 0.1, 0.5, 0.95, 1};
  uint64_t seed = 1;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (size_t v = 0; v < sizes[i]; v++) {
      logits[v] = (float)(mix64(seed * 1000 + v) % 1000) / 200 - 1;
      seen[v] = mix64(seed * 1000 + v) % 3 == 0;
      written[v] = seen[v] ? (uint32_t)(v % 3) : 0;
    }
    if (sizes[i] > 5) logits[3] = logits[4] = logits[5];  // equals
    for (size_t k = 0; k < sizeof top_ks / sizeof *top_ks; k++) {
      for (size_t p = 0; p < sizeof top_ps / sizeof *top_ps; p++) {
        const struct Setting s = {sizes[i], top_ks[k], temperatures[seed % 3], top_ps[p], min_ps[seed / 3 % 5],
                                  penalties[seed % 2], frequencies[seed % 3], presences[seed % 4], biases[seed % 5]};
        if (table == 0 || (int)(seed % 6) == table) check_setting(&s, seed);
        seed++;
      }
    }
    check_told(sizes[i]);
    /* Temperature 0: the most likely token, the first among equals. */
    const struct Setting greedy = {.V = sizes[i], .temperature = 0, .top_p = 1, .penalty = 1};
    size_t best = 0;
    for (size_t v = 1; v < sizes[i]; v++) best = logits[v] > logits[best] ? v : best;
    check_number(draw(&greedy, 1, 0), (double)best, "greedy token");
  }
  /* One token far above the rest is drawn whatever the setting, and nothing overflows. */
  for (size_t v = 0; v < 50; v++) logits[v] = v == 17 ? 3e38f : -3e38f;
  static const double extremes[] = {1e-300, 0.01, 1, 1e6};
  for (size_t i = 0; i < 4; i++) {
    const struct Setting s = {50, 0, extremes[i], 0.9, 0.1, 1, 0, 0, 0};
    check_number(draw(&s, 1, i), 17, "a token of logit 3e38");
  }
  check(isfinite(sampler_log_sum(scratch(), logits, 50)), "the log-sum overflows");
  static const float odd[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < 3; i++) {
    for (size_t v = 0; v < 50; v++) logits[v] = v == 49 - i ? odd[i] : 1;
    check(!isfinite(sampler_log_sum(scratch(), logits, 50)), "%g is taken for a number", (double)odd[i]);
  }
}

int main(void) {
  for (; kernels_at(table) != NULL; table++) {
    if (kernels_runnable(kernels_at(table))) check_table();
  }
  return check_done("test_sampler");
}
