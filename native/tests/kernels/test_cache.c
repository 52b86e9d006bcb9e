/* Attention over a cache, in every table that this CPU can run: held against the plain loops, and those
 * against double. */
#include "tests/kernels/cases.h"

static const double SOFTMAX = 1e-5;  // ‖ours - expected‖ / ‖expected‖

enum { MOST_SLOTS = 9 };

static struct Feed feeds[MOST_SLOTS];  // of the case in hand

static struct Cache cache_of(const struct Case *c, const struct Memory *out) {
  return (struct Cache){out[1].array, out[2].array, c->T};
}

static void call_decode(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                        const struct Memory *out) {
  k->attention_forward_cached(w, out[0].data, c->in[0].data, cache_of(c, out), feeds, c->M, c->C, c->NH);
}

static void call_prompt(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                        const struct Memory *out) {
  k->attention_prompt(w, out[0].data, c->in[0].data, cache_of(c, out), feeds[0], c->M, c->C, c->NH);
}

/* B slots of T positions, M rows; random everywhere but in the lanes that fill a row up. */
static void case_attention(struct Case *c, size_t HS) {
  const size_t row = round_up(HS, CACHE_LANES);
  case_input(c, c->M * 3 * c->C, 0);
  case_output(c, "out", c->M * c->C, OVERWRITTEN, SOFTMAX);
  for (int i = 0; i < 2; i++) {
    const size_t n = c->B * c->NH * c->T * row;
    const struct Array kept = case_result(c, i == 0 ? "keys" : "values", n, ADDED_TO, 0, c->dtype);
    for (size_t at = 0; at < n; at++) {
      if (at % row >= HS) array_set(kept, at, 0);
    }
  }
}

static void check_decode(size_t slots, size_t rows, size_t P, size_t NH, size_t HS, enum Dtype dtype) {
  struct Case c = {.op = "attention_forward_cached", .call = call_decode, .B = slots, .T = P, .C = NH * HS, .NH = NH,
                   .M = rows, .dtype = dtype};
  case_attention(&c, HS);
  for (size_t m = 0; m < rows; m++) feeds[m] = (struct Feed){(m + 1) % slots, m == 0 ? P - 1 : random_below(P), 0};
  case_check(&c);
}

static void check_prompt(size_t first, size_t rows, size_t P, size_t NH, size_t HS, enum Dtype dtype) {
  struct Case c = {.op = "attention_prompt", .call = call_prompt, .B = 2, .T = P, .C = NH * HS, .NH = NH, .M = rows,
                   .dtype = dtype};
  case_attention(&c, HS);
  feeds[0] = (struct Feed){1, first, 0};
  case_check(&c);
}

/* The plainest attention there is, in double. */
static void check_plain(size_t first, size_t rows, size_t NH, size_t HS, enum Dtype dtype) {
  const size_t P = first + rows, C = NH * HS, row = round_up(HS, CACHE_LANES);
  struct Case c = {.op = "attention_prompt", .call = call_prompt, .B = 2, .T = P, .C = C, .NH = NH, .M = rows,
                   .dtype = dtype};
  struct Memory out[3];
  case_always();
  case_attention(&c, HS);
  feeds[0] = (struct Feed){1, first, 0};
  case_run(&c, kernels_at(0), 0, out);
  double above = 0, below = 0;
  for (size_t m = 0; m < rows; m++) {
    for (size_t h = 0; h < NH; h++) {
      const float *q = c.in[0].data + m * 3 * C + h * HS;
      const struct Array keys = array_at(out[1].array, (NH + h) * P * row);
      const struct Array values = array_at(out[2].array, (NH + h) * P * row);
      double scores[200], max = -INFINITY, total = 0;
      for (size_t t = 0; t <= first + m; t++) {
        scores[t] = 0;
        for (size_t i = 0; i < HS; i++) scores[t] += (double)q[i] * (double)array_get(keys, t * row + i);
        scores[t] /= sqrt((double)HS);
        max = fmax(max, scores[t]);
      }
      for (size_t t = 0; t <= first + m; t++) total += scores[t] = exp(scores[t] - max);
      for (size_t i = 0; i < HS; i++) {
        double sum = 0;
        for (size_t t = 0; t <= first + m; t++) sum += scores[t] / total * (double)array_get(values, t * row + i);
        const double d = (double)out[0].data[m * C + h * HS + i] - sum;
        above += d * d, below += sum * sum;
      }
    }
    /* The newest key and value are those of the row. */
    for (size_t i = 0; i < HS; i++) {
      const float key = c.in[0].data[m * 3 * C + C + i];
      const size_t at = (NH * P + first + m) * row + i;
      check_number(array_get(out[1].array, at), dtype == BF16 ? bf16_to_float(bf16_from_float(key)) : key,
                   "a key in the cache");
    }
  }
  check(sqrt(above / below) <= SOFTMAX, "%s: expected attention in double within %g, got %g", now, SOFTMAX,
        sqrt(above / below));
  for (size_t i = 0; i < 3; i++) memory_free(&out[i]);
  case_free(&c);
}

static void check_attentions(void) {
  static const size_t head_sizes[] = {1, 8, 13, 16, 24, 40, 64, 80}, lengths[] = {1, 2, 3, 15, 16, 17, 33, 64, 130};
  enum { HEAD_SIZES = sizeof head_sizes / sizeof *head_sizes, LENGTHS = sizeof lengths / sizeof *lengths };
  for (size_t h = 0; h < HEAD_SIZES; h++) {
    for (size_t t = 0; t < LENGTHS; t++) {
      const size_t NH = 1 + (h + t) % 3, slots = 1 + (h * t) % MOST_SLOTS;
      check_decode(slots, 1 + (h + t) % slots, lengths[t], NH, head_sizes[h], (h + t) % 2 == 0 ? FP32 : BF16);
      const enum Dtype dtype = (h + t) % 3 == 0 ? BF16 : FP32;
      check_prompt(lengths[(t + h) % LENGTHS] - 1, lengths[t], 270, NH, head_sizes[h], dtype);
    }
  }
  check_prompt(300, 100, 400, 2, 64, FP32), check_prompt(37, 256, 300, 1, 64, BF16);
  check_decode(2, 2, 1024, 3, 64, FP32), check_decode(2, 2, 1024, 3, 64, BF16);
  check_plain(0, 5, 2, 13, FP32), check_plain(70, 30, 3, 16, FP32), check_plain(99, 1, 2, 64, BF16);
}

/* A text alone and among others: the same bits. */
static void check_alone(enum Dtype dtype) {
  enum { NH = 3, HS = 24, P = 50 };
  for (int t = 0; kernels_at(t) != NULL; t++) {
    if (!kernels_runnable(kernels_at(t))) continue;
    struct Case c = {.op = "attention_forward_cached", .call = call_decode, .B = MOST_SLOTS, .T = P, .C = NH * HS, .NH = NH,
                     .M = MOST_SLOTS, .dtype = dtype};
    struct Memory all[3], one[3], whole;
    case_always();
    case_attention(&c, HS);
    for (size_t m = 0; m < MOST_SLOTS; m++) feeds[m] = (struct Feed){m, random_below(P), 0};
    case_run(&c, kernels_at(t), 1, all);
    whole = c.in[0], c.M = 1, c.initial[0].count = c.C;
    for (size_t m = 0; m < MOST_SLOTS; m++) {
      const struct Feed kept = feeds[0];
      feeds[0] = feeds[m];
      c.in[0].data = whole.data + m * 3 * c.C;
      case_run(&c, kernels_at(t), (int)(m % THREAD_COUNTS), one);
      check(memcmp(one[0].data, all[0].data + m * c.C, c.C * sizeof(float)) == 0,
            "%s: expected the bits of %d texts together in text %zu, got others", now, MOST_SLOTS, m);
      if (m > 0) feeds[0] = kept;
      for (size_t i = 0; i < 3; i++) memory_free(&one[i]);
    }
    c.in[0] = whole, c.initial[0].count = MOST_SLOTS * c.C;
    for (size_t i = 0; i < 3; i++) memory_free(&all[i]);
    case_free(&c);
  }
}

int main(void) {
  cases_start();
  check_attentions();
  check_alone(FP32), check_alone(BF16);
  cases_stop();
  return check_done("test_cache");
}
