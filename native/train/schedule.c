#include "train/schedule.h"

#include <math.h>

const char *const SCHEDULE_NAMES[] = {"constant", "cosine", "linear", "wsd", NULL};

/* What is left of the height above `least`, at the part x in [0, 1] of the way down. */
static double height(enum ScheduleShape shape, double x) {
  switch (shape) {
    case CONSTANT: return 1;
    case COSINE: return (1 + cos(3.14159265358979323846 * x)) / 2;
    case LINEAR: return 1 - x;
    case WSD: return 1 - sqrt(x);
  }
  return 1;
}

static double wsd_decay(const struct Schedule *s) { return round(s->decay * (double)s->steps); }

size_t schedule_decay_begins(const struct Schedule *s) {
  return s->shape == WSD ? s->steps - (size_t)wsd_decay(s) : s->warmup;
}

size_t schedule_wsd_steps(double decay, size_t step) {
  struct Schedule s = {.shape = WSD, .decay = decay, .steps = (size_t)((double)step / (1 - decay))};
  while (s.steps > 0 && schedule_decay_begins(&s) >= step) s.steps--;
  while (schedule_decay_begins(&s) < step) s.steps++;
  return s.steps;
}

size_t schedule_least_decay(const struct Schedule *s) {
  return s->shape == WSD ? (size_t)wsd_decay(s) : s->shape != CONSTANT;
}

double schedule_lr(const struct Schedule *s, size_t step) {
  if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
  const double risen = (double)s->steps - (double)s->warmup;
  const double decay_steps = s->shape == WSD ? wsd_decay(s) : risen;
  const double done = (double)step - ((double)s->steps - decay_steps);
  const double x = decay_steps > 0 ? fmin(fmax(done / decay_steps, 0), 1) : 0;
  return s->least + (s->lr - s->least) * height(s->shape, x);
}
