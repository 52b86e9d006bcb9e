/* Windows to measure a model on: within the stream, no target twice, all there are where all are asked for. */
#include "files/windows.h"

#include "tests/check.h"

static void check_spread(uint64_t targets, uint64_t most, size_t T) {
  const struct Windows w = windows_spread(targets, most, T);
  const uint64_t wanted = most == 0 || most > targets ? targets : most;
  uint64_t end = 0, predicted = 0, widest = 0;
  for (uint64_t i = 0; i < w.count; i++) {
    const struct Window window = windows_at(&w, i);
    check(window.start >= end, "%llu of %llu by %zu: window %llu begins at %llu, before the end of the last at %llu",
          (unsigned long long)most, (unsigned long long)targets, T, (unsigned long long)i,
          (unsigned long long)window.start, (unsigned long long)end);
    check(window.length > 0 && window.length <= T && (window.length == w.T || i + 1 == w.count),
          "window %llu has length %zu", (unsigned long long)i, window.length);
    if (window.start - end > widest) widest = window.start - end;
    end = window.start + window.length;
    predicted += window.length;
  }
  if (targets - end > widest) widest = targets - end;
  check(end <= targets, "the last of %llu by %zu ends at %llu", (unsigned long long)targets, T, (unsigned long long)end);
  check(predicted == wanted && w.predicted == wanted, "%llu of %llu by %zu: %llu are predicted",
        (unsigned long long)most, (unsigned long long)targets, T, (unsigned long long)predicted);
  check(widest <= (targets - wanted) / w.count + 1, "%llu of %llu by %zu: a gap of %llu", (unsigned long long)most,
        (unsigned long long)targets, T, (unsigned long long)widest);
}

int main(void) {
  const uint64_t targets[] = {1, 2, 3, 63, 64, 65, 574, 1000, 20479, 20480, 20481, 1234567, (uint64_t)1 << 40};
  const uint64_t most[] = {0, 1, 2, 64, 100, 1000, 20480};
  const size_t lengths[] = {1, 2, 50, 64, 1000, 1024};
  for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
    for (size_t j = 0; j < sizeof most / sizeof *most; j++) {
      for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        if (targets[i] > 2000000 && most[j] == 0) continue;
        check_spread(targets[i], most[j], lengths[k]);
      }
    }
  }
  return check_done("test_windows");
}
