#include "files/windows.h"

struct Windows windows_spread(uint64_t targets, uint64_t most, size_t T) {
  struct Windows w = {.targets = targets, .predicted = most > 0 && most < targets ? most : targets, .T = T};
  if (w.T > w.predicted) w.T = (size_t)w.predicted;
  w.count = w.T > 0 ? (w.predicted + w.T - 1) / w.T : 0;
  return w;
}

struct Window windows_at(const struct Windows *w, uint64_t index) {
  const uint64_t left_out = w->targets - w->predicted, before = index * w->T;
  const uint64_t each = left_out / w->count, rest = left_out % w->count;
  const uint64_t left = w->predicted - before;
  return (struct Window){.start = before + index * each + each / 2 + index * rest / w->count,
                         .length = left < w->T ? (size_t)left : w->T};
}
