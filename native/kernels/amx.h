/* AMX: eight tiles of 16 rows by 64 bytes, and the instructions that multiply them. Intel SDM, volume 2.
 *
 * Numbers of tiles are constants in the instructions, so these are macros. With LLMC_TILES_MODEL they are plain C that
 * computes what the instructions compute, for tests on a CPU without tiles.
 */
#include <stdint.h>
#include <string.h>

/* gcc does not know that tiles read and write memory: what was stored before is in memory, what is loaded after comes
 * from there. */
INLINE void amx_fence(void) { __asm__ volatile("" ::: "memory"); }

enum { TILE_ROWS = 16, TILE_BYTES = 64, TILE_WORDS = 16 };

#ifndef LLMC_TILES_MODEL
#include <immintrin.h>

struct __attribute__((packed)) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

/* A thread calls it before its first tile: all eight whole. */
INLINE void amx_begin(void) {
  struct TileConfig config = {.palette = 1};
  for (int i = 0; i < 8; i++) config.row_bytes[i] = TILE_BYTES, config.rows[i] = TILE_ROWS;
  _tile_loadconfig(&config);
}

/* And this after its last one: the system saves no tiles of a thread that uses none. */
INLINE void amx_end(void) { _tile_release(); }

#define amx_zero(tile) _tile_zero(tile)
#define amx_load(tile, at, stride) _tile_loadd(tile, at, stride)
#define amx_load_once(tile, at, stride) _tile_stream_loadd(tile, at, stride)  // not to be kept in the first cache
#define amx_store(tile, at, stride) _tile_stored(tile, at, stride)
#define amx_multiply_bf16(sums, left, right) _tile_dpbf16ps(sums, left, right)

#else

static _Thread_local uint32_t amx_tiles[8][TILE_ROWS][TILE_WORDS];

/* All bits set: what is read before it was written shows. */
INLINE void amx_begin(void) { memset(amx_tiles, 0xff, sizeof amx_tiles); }
INLINE void amx_end(void) { memset(amx_tiles, 0xff, sizeof amx_tiles); }
INLINE void amx_zero(int tile) { memset(amx_tiles[tile], 0, sizeof amx_tiles[tile]); }

INLINE void amx_load(int tile, const void *at, size_t stride) {
  for (size_t row = 0; row < TILE_ROWS; row++) memcpy(amx_tiles[tile][row], (const char *)at + row * stride, TILE_BYTES);
}

INLINE void amx_load_once(int tile, const void *at, size_t stride) { amx_load(tile, at, stride); }

INLINE void amx_store(int tile, void *at, size_t stride) {
  for (size_t row = 0; row < TILE_ROWS; row++) memcpy((char *)at + row * stride, amx_tiles[tile][row], TILE_BYTES);
}

/* The upper or the lower BF16 of a word. */
INLINE float amx_number(uint32_t word, const bool upper) { return bf16_to_float((uint16_t)(upper ? word >> 16 : word)); }

/* The float nearest to the double x; those below 2^-126 are zero. */
INLINE float amx_round(double x) {
  const float rounded = (float)x;
  return rounded > -0x1p-126f && rounded < 0x1p-126f ? 0 : rounded;
}

/* TDPBF16PS: sums (16, 16) += left (16, 32) times right (32, 16), of which a word holds two neighbours in the 32. Lower
 * and upper numbers are summed apart, each product and sum rounded once, and added up in the end. */
INLINE void amx_multiply_bf16(int sums, int left, int right) {
  for (size_t m = 0; m < TILE_ROWS; m++) {
    float apart[2][TILE_WORDS] = {0};
    for (size_t k = 0; k < TILE_ROWS; k++) {
      for (size_t n = 0; n < TILE_WORDS; n++) {
        for (int upper = 0; upper < 2; upper++) {
          const double a = (double)amx_round((double)amx_number(amx_tiles[left][m][k], upper));
          const double b = (double)amx_round((double)amx_number(amx_tiles[right][k][n], upper));
          apart[upper][n] = amx_round((double)apart[upper][n] + a * b);
        }
      }
    }
    for (size_t n = 0; n < TILE_WORDS; n++) {
      float sum;
      memcpy(&sum, &amx_tiles[sums][m][n], sizeof sum);
      sum = amx_round((double)sum + (double)amx_round((double)apart[0][n] + (double)apart[1][n]));
      memcpy(&amx_tiles[sums][m][n], &sum, sizeof sum);
    }
  }
}
#endif
