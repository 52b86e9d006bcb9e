/* The small things: checksum, sizes, arena. */
#include "base/arena.h"

#include "tests/check.h"
#include "model/gpt2.h"
#include "base/pool.h"
#include "base/util.h"

static void check_crc(void) {
  check(crc32_update(0, "123456789", 9) == 0xcbf43926, "crc32 of 123456789: expected cbf43926, got %08x",
        crc32_update(0, "123456789", 9));
  check(crc32_update(0, "", 0) == 0, "crc32 of nothing: expected 0, got %08x", crc32_update(0, "", 0));
  unsigned char bytes[100];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)mix64(i);
  for (size_t length = 0; length <= sizeof bytes; length++) {  // by bits, and in two pieces
    uint32_t slow = ~0u;
    for (size_t i = 0; i < length; i++) {
      slow ^= bytes[i];
      for (int bit = 0; bit < 8; bit++) slow = (slow >> 1) ^ (slow & 1 ? 0xEDB88320u : 0);
    }
    const uint32_t whole = crc32_update(0, bytes, length);
    check(whole == ~slow, "crc32 of %zu bytes: expected %08x, got %08x", length, ~slow, whole);
    for (size_t cut = 0; cut <= length; cut += 7) {
      const uint32_t pieces = crc32_update(crc32_update(0, bytes, cut), bytes + cut, length - cut);
      check(pieces == whole, "crc32 of %zu bytes cut at %zu: expected %08x, got %08x", length, cut, whole, pieces);
    }
  }
}

/* What the layout of a program does: the same calls, twice. */
static void lay_out(struct Arena *arena, char *blocks[5]) {
  static const size_t counts[] = {1, 63, 64, 0, 100000}, sizes[] = {1, 1, 4, 8, 8};
  for (int i = 0; i < 5; i++) blocks[i] = arena_alloc(arena, counts[i], sizes[i]);
}

static void check_arena(void) {
  struct Arena arena = {0};
  char *blocks[5];
  lay_out(&arena, blocks);
  for (int i = 0; i < 5; i++) check(blocks[i] == NULL, "measuring: block %d is expected to be NULL", i);
  const size_t measured = arena.used;
  check_number((double)measured, 64 + 64 + 256 + 0 + 800000, "measured bytes");
  arena_take(&arena);
  check(arena.size >= measured && arena.used == 0, "taken: expected %zu bytes or more and none used, got %zu and %zu",
        measured, arena.size, arena.used);
  lay_out(&arena, blocks);
  check_number((double)arena.used, (double)measured, "laid out bytes");
  for (int i = 0; i < 5; i++) {
    check((uintptr_t)blocks[i] % ARENA_ALIGNMENT == 0, "block %d: expected an address of a cache line, got %p", i,
          (void *)blocks[i]);
  }
  size_t zeros = 0;
  for (size_t i = 0; i < 800000; i++) zeros += blocks[4][i] == 0;
  check_number((double)zeros, 800000, "zero bytes of a fresh block");
  memset(blocks[4], 1, 800000);
  check(blocks[0][0] == 0 && blocks[2][255] == 0, "one block lies over another");
  arena_free(&arena);
  check(arena.base == NULL && arena.used == 0, "freed: something is left");
}

/* A model's plan is what its layout takes, for one thread and for several, trained or not. */
static void check_plan(int threads, bool training, enum Optimizer optimizer) {
  struct Gpt2 model = {.config = {.maxT = 9, .V = 30, .Vp = 128, .L = 2, .NH = 3, .C = 21}, .kernels = kernels_at(1),
                       .optimizer = optimizer};
  model.workers.pool = pool_create(threads);
  struct Arena arena = {0};
  gpt2_layout(&model, &arena, 2, 7, training);
  const struct MemoryPlan plan = model.plan;
  const size_t measured = arena.used;
  const size_t sum = plan.parameters + plan.gradients + plan.optimizer + plan.activations + plan.scratch;
  check_number((double)sum, (double)measured, "the parts of the plan");
  check_number((double)plan.parameters, (double)round_up(model.count * sizeof(float), ARENA_ALIGNMENT), "parameters");
  const size_t one_moment = optimizer == MUON ? 2 * 12 * 21 * 21 : 0;
  const size_t seconds = round_up((model.count - one_moment) * sizeof(float), ARENA_ALIGNMENT);
  check_number((double)plan.optimizer, training ? (double)(plan.parameters + seconds) : 0, "optimizer state");
  const size_t block = 12 * 21 * 21 + 13 * 21;  // qkv 3, attproj 1, fc 4, fcproj 4; biases 9, norms 4
  check_number((double)model.count, (128 + 9) * 21 + 2 * (double)block + 2 * 21, "number of parameters");
  arena_take(&arena);
  gpt2_layout(&model, &arena, 2, 7, training);
  check_number((double)arena.used, (double)measured, "bytes laid out");
  check(model.params.lnfb + 21 == model.params.first + model.count, "the last tensor does not end where the block does");
  pool_destroy(model.workers.pool);
  arena_free(&arena);
}

int main(void) {
  check_crc();
  check_arena();
  check_plan(1, true, ADAMW), check_plan(3, true, MUON), check_plan(2, false, MUON);
  check_number((double)size_product(1u << 31, 1u << 31), 0x1p62, "2^31 squared");
  check_number((double)round_up(1, 64), 64, "1 rounded up to 64"), check_number((double)ceil_div(129, 128), 2, "129 / 128");
  check(isnan(unsigned_nan(-NAN)) && !signbit(unsigned_nan(-NAN)), "a NaN keeps its sign");
  check_number(unsigned_nan(-1.5), -1.5, "a number keeps its sign");
  const double before = clock_seconds();
  check(clock_seconds() >= before, "the clock went back");
  return check_done("test_util");
}
