/* The tile of a product where one instruction multiplies two rows by two columns. */

#if QUADS
/* acc (MR, columns) += a (steps, MR)ᵀ · b (steps, columns), both panels in quads. Until the tile is turned, acc[i][j] and
 * acc[i + 1][j] (i even) hold rows i and i + 1: the first of the first two columns of vector j, the second of its last
 * two. */
INLINE void gemm_steps_quads(vf acc[MR][NRV], const float *a, const float *b, size_t steps, const size_t vectors) {
  for (size_t s = 0; s < steps; s += 2, a += 2 * MR, b += 2 * vectors * VL) {
    vf a_rows[MR / 2];
#pragma GCC unroll 8
    for (int i = 0; i < MR / 2; i++) a_rows[i] = vload(a + i * VL);
#pragma GCC unroll 8
    for (size_t j = 0; j < 2 * vectors; j++) {
      const vf b_columns = vload(b + j * VL);
#pragma GCC unroll 8
      for (int i = 0; i < MR / 2; i++) {
        acc[2 * i + (int)j % 2][j / 2] = vadd_quads(acc[2 * i + (int)j % 2][j / 2], a_rows[i], b_columns);
      }
    }
  }
}

INLINE void tile_turn_quads(vf acc[MR][NRV]) {
#pragma GCC unroll 8
  for (int i = 0; i < MR; i += 2) {
#pragma GCC unroll 4
    for (int j = 0; j < NRV; j++) {
      const vf left = acc[i][j], right = acc[i + 1][j];
      acc[i][j] = SHUFFLE(vi, left, right, 0, 1, 4, 5);
      acc[i + 1][j] = SHUFFLE(vi, left, right, 2, 3, 6, 7);
    }
  }
}
#else
INLINE void gemm_steps_quads(vf acc[MR][NRV], const float *a, const float *b, size_t steps, const size_t vectors) {
  (void)acc, (void)a, (void)b, (void)steps, (void)vectors;
}
INLINE void tile_turn_quads(vf acc[MR][NRV]) { (void)acc; }
#endif
