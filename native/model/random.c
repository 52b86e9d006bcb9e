#include "model/random.h"

#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "base/util.h"

/* c[7] x^7 + … + c[0] */
static double polynomial(const double c[8], double x) {
  double sum = c[7];
  for (int i = 6; i >= 0; i--) sum = sum * x + c[i];
  return sum;
}

/* The logarithm of x, an ordinary number: x = m 2^e with m from sqrt(1/2) to sqrt(2), and with s = (m - 1) / (m + 1)
 * log m = 2 (s + s^3/3 + s^5/5 + …), of which eleven terms leave 1e-18. */
static double logarithm(double x) {
  int e;
  double m = frexp(x, &e);
  if (m < 0.70710678118654752) m = m * 2, e--;
  const double s = (m - 1) / (m + 1), square = s * s;
  double sum = 1.0 / 21;
  for (int odd = 19; odd > 0; odd -= 2) sum = sum * square + 1.0 / odd;
  return 2 * s * sum + e * 0.69314718055994531;
}

double random_normal(uint64_t bits) {
  static const double centre[2][8] = {
      {3.3871328727963666080e0, 1.3314166789178437745e+2, 1.9715909503065514427e+3, 1.3731693765509461125e+4,
       4.5921953931549871457e+4, 6.7265770927008700853e+4, 3.3430575583588128105e+4, 2.5090809287301226727e+3},
      {1, 4.2313330701600911252e+1, 6.8718700749205790830e+2, 5.3941960214247511077e+3,
       2.1213794301586595867e+4, 3.9307895800092710610e+4, 2.8729085735721942674e+4, 5.2264952788528545610e+3}};
  static const double slope[2][8] = {
      {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
       1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
      {1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
       1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
  static const double tail[2][8] = {
      {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
       2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
      {1, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
       7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};
  const double p = (double)(2 * (bits >> 12) + 1) * 0x1p-53;  // the middle of its part: exact
  const double q = p - 0.5;
  if (fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * (polynomial(centre[0], r) / polynomial(centre[1], r));
  }
  const double r = sqrt(-logarithm(q < 0 ? p : 1 - p));
  const double (*c)[8] = r <= 5 ? slope : tail;
  const double x = r - (r <= 5 ? 1.6 : 5);
  const double size = polynomial(c[0], x) / polynomial(c[1], x);
  return q < 0 ? -size : size;
}

struct Fill {
  float *values;
  size_t n;
  uint64_t key;
  double std;
};

static void fill_task(void *argument, int thread, int threads) {
  const struct Fill *fill = argument;
  size_t begin, end;
  pool_part(fill->n, 1, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    /* Output i of SplitMix64 (Steele et al. 2014) when it starts from the key. */
    fill->values[i] = (float)(fill->std * random_normal(mix64(fill->key + i * 0x9E3779B97F4A7C15u)));
  }
}

void random_weights(const struct Gpt2 *model, uint64_t seed) {
  const struct Config *config = &model->config;
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(config, tensors);
  float *at = model->params.first;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    const struct Tensor *tensor = &tensors[i];
    const size_t n = (tensor->place == BLOCK ? config->L : 1) * tensor->rows * tensor->columns;
    const bool to_residual = strstr(tensor->name, "projw") != NULL;
    struct Fill fill = {at, i == 0 ? config->V * config->C : n, mix64(mix64(seed) + (uint64_t)i),
                              to_residual ? 0.02 / sqrt(2 * (double)config->L) : 0.02};
    memset(at, 0, n * sizeof(float));
    if (tensor->kind == MATRIX) {
      pool_run(model->workers.pool, "random_weights", fill_task, &fill);
    } else if (tensor->name[strlen(tensor->name) - 1] == 'w') {
      for (size_t j = 0; j < n; j++) at[j] = 1;
    }
    at += n;
  }
}
