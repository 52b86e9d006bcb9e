#include "model/counted.h"

#include <string.h>

size_t counted_pack(struct Array rows, size_t C, const int *targets, int *packed, size_t N) {
  const size_t size = C * dtype_size(rows.dtype);
  size_t count = 0;
  for (size_t n = 0; n < N; n++) {
    if (targets[n] < 0) continue;
    if (count < n) memcpy(array_at(rows, count * C).data, array_at(rows, n * C).data, size);
    packed[count++] = targets[n];
  }
  if (count > 0) return count;
  packed[0] = -1;
  return 1;
}

void counted_unpack(float *rows, size_t C, const int *targets, size_t N) {
  size_t count = 0;
  for (size_t n = 0; n < N; n++) count += targets[n] >= 0;
  /* From the end: a row goes back to its place or behind it, never over one that waits. */
  for (size_t n = N; n-- > 0;) {
    if (targets[n] < 0) memset(rows + n * C, 0, C * sizeof(float));
    else if (--count < n) memcpy(rows + n * C, rows + count * C, C * sizeof(float));
  }
}
