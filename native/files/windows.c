#include "files/windows.h"

struct Windows windows_spread(uint64_t targets, uint64_t most, size_t T) {
  struct Windows w = {.targets = targets, .predicted = most > 0 && most < targets ? most : targets, .T = T};
  if (w.T > w.predicted) w.T = (size_t)w.predicted;
  w.count = w.T > 0 ? (w.predicted + w.T - 1) / w.T : 0;
  return w;
}

struct Windows windows_of_cuts(const struct Cuts *cuts, uint64_t most, size_t T) {
  const uint64_t wanted = most / T + (most % T > 0);
  struct Windows w = {.T = T, .count = most > 0 && wanted < cuts->count ? wanted : cuts->count, .cuts = cuts};
  for (uint64_t i = 0; i < cuts->count; i++) w.targets += cuts->items[i].counted;
  for (uint64_t i = 0; i < w.count; i++) w.predicted += windows_at(&w, i).counted;
  return w;
}

static struct Window cut_window(const struct Windows *w, uint64_t index) {
  const uint64_t each = w->cuts->count / w->count, rest = w->cuts->count % w->count;
  const struct Cut *cut = &w->cuts->items[index * each + each / 2 + index * rest / w->count];
  return (struct Window){cut->start, cut->length, cut->counted};
}

struct Window windows_at(const struct Windows *w, uint64_t index) {
  if (w->cuts != NULL) return cut_window(w, index);
  const uint64_t left_out = w->targets - w->predicted, before = index * w->T;
  const uint64_t each = left_out / w->count, rest = left_out % w->count;
  const uint64_t left = w->predicted - before;
  const size_t length = left < w->T ? (size_t)left : w->T;
  return (struct Window){before + index * each + each / 2 + index * rest / w->count, length, length};
}
