/* Rows whose targets count come side by side and go back to their places. */
#include "model/counted.h"

#include <string.h>

#include "tests/check.h"

enum { N = 7, C = 3 };

/* Row n of the targets in `counts` counts if its bit is set. */
static void round_trip(unsigned counts) {
  float rows[N * C], kept[N * C];
  int targets[N], packed[N];
  size_t count = 0;
  for (int n = 0; n < N; n++) {
    targets[n] = counts >> n & 1 ? 10 + n : -1;
    for (int c = 0; c < C; c++) rows[n * C + c] = (float)(n * C + c + 1);
  }
  memcpy(kept, rows, sizeof rows);
  const size_t found = counted_pack(array_of(rows), C, targets, packed, N);
  for (int n = 0; n < N; n++) {
    if (targets[n] < 0) continue;
    check(packed[count] == targets[n], "%x: target %zu is %d, not %d", counts, count, packed[count], targets[n]);
    check(memcmp(rows + count * C, kept + n * C, C * sizeof(float)) == 0, "%x: row %zu is not row %d", counts, count, n);
    count++;
  }
  check(found == (count > 0 ? count : 1), "%x: %zu rows, not %zu", counts, found, count);
  check(count > 0 || packed[0] == -1, "%x: nothing counts, but target %d", counts, packed[0]);
  counted_unpack(rows, C, targets, N);
  for (int n = 0; n < N; n++) {
    for (int c = 0; c < C; c++) check_number(rows[n * C + c], targets[n] < 0 ? 0 : kept[n * C + c], "a row that is back");
  }
}

int main(void) {
  for (unsigned counts = 0; counts < 1u << N; counts++) round_trip(counts);
  return check_done("test_counted");
}
