/* The tile of steps 4 to 9. Its sums live in registers: the loops over them are written out. */
#include "vector.h"

/* sum (MR, NR) = a (MR, kc) · b (kc, NR). A float of A lies at i * a_row + k * a_col; a row of B at
 * k * b_row. */
INLINE void tile(vf sum[MR][NRV], const float *a, size_t a_row, size_t a_col, const float *b, size_t b_row,
                 size_t kc) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) sum[i][j] = (vf){0};
  }
  for (size_t k = 0; k < kc; k++, a += a_col, b += b_row) {
    vf row[NRV];
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) row[j] = load(b + j * VL);
#pragma GCC unroll 16
    for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
      for (size_t j = 0; j < NRV; j++) sum[i][j] += a[i * a_row] * row[j];
    }
  }
}

/* out (MR, NR) = sum, or += where earlier blocks of K have left their part there */
INLINE void tile_out(float *out, size_t N, vf sum[MR][NRV], int first) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) {
      float *at = out + i * N + j * VL;
      store(at, first ? sum[i][j] : sum[i][j] + load(at));
    }
  }
}

/* The same for the first rows and columns of a tile that hangs over the edge. */
INLINE void tile_out_edge(float *out, size_t N, vf sum[MR][NRV], size_t rows, size_t columns, int first) {
  float whole[MR][NR];
  memcpy(whole, sum, sizeof whole);
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j < columns; j++) out[i * N + j] = whole[i][j] + (first ? 0 : out[i * N + j]);
  }
}
