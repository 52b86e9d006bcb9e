/* The ranks' runs of pieces cover a model, and their updates are together the update of one process, bit by bit. */
#include "model/pieces.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/pool.h"
#include "base/util.h"
#include "model/update.h"
#include "tests/check.h"

/* wte has two pieces, and no other tensor has more than one. */
static const struct Config config = {.maxT = 9, .V = 2100, .Vp = 2176, .L = 2, .NH = 2, .C = 130};
enum { MOST_RANKS = 64, STEPS = 2 };

static bool same(struct Border a, struct Border b) {
  return a.piece == b.piece && a.floats == b.floats && a.m == b.m && a.v == b.v;
}

static void runs_cover(enum MomentsType type, enum Optimizer optimizer) {
  const struct Border end = pieces_border(&config, type, optimizer, 1, 1);
  check_number((double)end.floats, (double)gpt2_count(&config), "floats of all pieces");
  check_number((double)end.m, (double)gpt2_m_bytes(&config, type), "bytes of m");
  check_number((double)end.v, (double)gpt2_v_bytes(&config, type, optimizer), "bytes of v");
  for (size_t count = 1; count <= MOST_RANKS; count++) {
    struct Border before = pieces_border(&config, type, optimizer, 0, count);
    check(same(before, (struct Border){0}), "%zu ranks: the first run does not begin at 0", count);
    for (size_t rank = 1; rank <= count; rank++) {
      const struct Border border = pieces_border(&config, type, optimizer, rank, count);
      check(border.floats >= before.floats && border.piece >= before.piece, "rank %zu of %zu goes back", rank, count);
      before = border;
    }
    check(same(before, end), "%zu ranks: the last run does not end with the model", count);
  }
}

static void pieces_follow(enum MomentsType type, enum Optimizer optimizer) {
  struct Pieces pieces = pieces_of(&config, type, optimizer);
  struct Border at = {0};
  size_t muon = 0;
  for (struct Piece piece; pieces_next(&pieces, &piece);) {
    check(same(piece.at, at) && piece.number == at.piece, "piece %zu does not follow the one before it", piece.number);
    check(piece.first % MOMENTS_BLOCK == 0, "piece %zu cuts a block of moments", piece.number);
    check(piece.muon || piece.n <= PIECES_MOST, "piece %zu is too large", piece.number);
    at.piece++, at.floats += piece.n, at.m += moments_bytes(type, piece.n);
    if (!piece.muon) at.v += moments_bytes(type, piece.n);
    muon += piece.muon;
  }
  check(same(at, pieces.at), "the pieces do not end where they should");
  check_number((double)at.piece, 1 + 4 + 12 * 2, "pieces");
  check_number((double)muon, optimizer == MUON ? 4 * 2 : 0, "matrices that Muon updates");
}

/* A model with the part of the moments that is a rank's. All have the same weights and gradients. */
struct Trained {
  struct Gpt2 model;
  struct Arena arena;
  double *squares;
};

static float number(size_t i) { return (float)(mix64(i) >> 40) * 0x1p-23f - 1; }

static void create(struct Trained *t, enum MomentsType type, enum Optimizer optimizer, size_t rank, size_t ranks,
                   bool apart) {
  struct Gpt2 *model = &t->model;
  *t = (struct Trained){.model = {.config = config, .kernels = kernels_best(), .optimizer = optimizer, .rank = rank,
                                  .ranks = ranks, .adds_apart = apart}};
  model->moments.type = type;
  model->workers.pool = pool_create(1);
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) arena_take(&t->arena);
    gpt2_layout(model, &t->arena, 1, 2, true);
    t->squares = arena_alloc(&t->arena, pieces_count(model), sizeof(double));
  }
  for (size_t i = 0; i < model->count; i++) model->params.first[i] = 0.02f * number(i);
}

static void destroy(struct Trained *t) {
  pool_destroy(t->model.workers.pool);
  arena_free(&t->arena);
}

static void step(struct Trained *t, size_t number_of_step, bool whole) {
  const struct UpdateConfig update = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .seed = 7};
  struct Gpt2 *model = &t->model;
  const size_t first = model->total != NULL ? model->own[0].floats : 0;
  const size_t n = model->total != NULL ? model->own[1].floats - first : model->count;
  float *gradient = model->total != NULL ? model->total : model->grads.first;
  for (size_t i = 0; i < n; i++) gradient[i] = number(number_of_step * model->count + first + i);
  update_squares(model, t->squares);
  if (whole) gpt2_update(model, &update, number_of_step);
  else update_own(model, &update, number_of_step, 1);
}

static void updates_agree(enum MomentsType type, enum Optimizer optimizer, size_t ranks, bool apart) {
  struct Trained all, part;
  create(&all, type, optimizer, 0, 1, false);
  for (size_t i = 1; i <= STEPS; i++) step(&all, i, true);
  for (size_t rank = 0; rank < ranks; rank++) {
    create(&part, type, optimizer, rank, ranks, apart);
    for (size_t i = 1; i <= STEPS; i++) step(&part, i, false);
    const struct Border *own = part.model.own;
    check(memcmp(part.model.params.first + own[0].floats, all.model.params.first + own[0].floats,
                 (own[1].floats - own[0].floats) * sizeof(float)) == 0, "rank %zu of %zu has other weights", rank, ranks);
    check(memcmp(part.model.moments.m, all.model.moments.m + own[0].m, own[1].m - own[0].m) == 0,
          "rank %zu of %zu has another m", rank, ranks);
    check(memcmp(part.model.moments.v, all.model.moments.v + own[0].v, own[1].v - own[0].v) == 0,
          "rank %zu of %zu has another v", rank, ranks);
    check(memcmp(part.squares + own[0].piece, all.squares + own[0].piece,
                 (own[1].piece - own[0].piece) * sizeof(double)) == 0, "rank %zu of %zu has other squares", rank, ranks);
    destroy(&part);
  }
  destroy(&all);
}

int main(void) {
  for (int type = MOMENTS_FP32; type <= MOMENTS_8BIT; type++) {
    for (int optimizer = ADAMW; optimizer <= MUON; optimizer++) {
      runs_cover((enum MomentsType)type, (enum Optimizer)optimizer);
      pieces_follow((enum MomentsType)type, (enum Optimizer)optimizer);
      updates_agree((enum MomentsType)type, (enum Optimizer)optimizer, 3, type == MOMENTS_BF16);
    }
  }
  updates_agree(MOMENTS_8BIT, ADAMW, 5, true);
  return check_done("test_pieces");
}
