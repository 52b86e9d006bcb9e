#include "train/team.h"

#include <math.h>
#include <string.h>

#include "base/interrupts.h"
#include "base/pool.h"
#include "base/util.h"
#include "model/pieces.h"
#include "model/update.h"
#include "train/exchange.h"
#include "train/orders.h"

/* ---- memory ------------------------------------------------------------------------------------- */

static size_t ranks_of(const struct Team *team) { return (size_t)team->ranks.count; }

/* Batches in a share, of an update of so many. */
static size_t share_parts(const struct Team *team, size_t parts) { return parts / team->shares; }

/* Shares of a rank, one after the other; the last of some ranks may be none. */
static size_t rounds_of(const struct Team *team) { return ceil_div(team->shares, ranks_of(team)); }

bool team_adds_apart(const struct Team *team) { return rounds_of(team) > 1; }

/* Numbers that a rank tells after the gradients of so many parts: their losses, and whether it was asked to stop. */
static size_t losses_each(const struct Team *team, size_t parts) {
  return rounds_of(team) * share_parts(team, parts) + 1;
}

/* Tokens in the rows that a rank gets at a time: a share's, where they come by message. */
static size_t dealt_tokens(const struct Team *team) {
  const size_t batches = ranks_of(team) > 1 ? share_parts(team, team->parts) : 1;
  return size_max(size_product(batches, team->B * team->T), team->eval_B * team->eval_T);
}

void team_layout(struct Team *team, struct Arena *arena, const struct Gpt2 *model) {
  const size_t N = ranks_of(team), dealt = dealt_tokens(team);
  team->tokens = arena_alloc(arena, dealt, sizeof(int));
  team->targets = arena_alloc(arena, dealt, sizeof(int));
  team->row_losses = model->eval.acts.losses;
  if (team->shares == 1) return;
  team->losses = arena_alloc(arena, N * losses_each(team, team->parts), sizeof(double));
  team->squares = arena_alloc(arena, pieces_count(model), sizeof(double));
  for (size_t r = 0; r <= N; r++) {
    const struct Border border = pieces_border(&model->config, model->moments.type, model->optimizer, r, N);
    team->cuts[r] = border.floats, team->piece_cuts[r] = 2 * border.piece;  // a square is a double, two floats
  }
  if (N == 1) return;
  team->row_losses = arena_alloc(arena, N * team->eval_B * team->eval_T, sizeof(float));
  exchange_layout(team, arena);
  for (int i = 0; i < 2 && team->ranks.rank == 0; i++) team->hand[i] = arena_alloc(arena, N * dealt, sizeof(int));
}

/* ---- orders ------------------------------------------------------------------------------------- */

void team_clock(struct Team *team) { team->exchanging = team->computing = 0; }

/* Time from *since, which is set to now. */
static double passed(double *since) {
  const double before = *since;
  *since = clock_seconds();
  return *since - before;
}

static void give_order(struct Team *team, struct Order *order) {
  double clock = clock_seconds();
  ranks_broadcast(&team->ranks, order, sizeof *order);
  team->exchanging += passed(&clock);
}

/* ---- the gradient ------------------------------------------------------------------------------- */

/* Deals out the batches of a round's shares. */
static void deal(struct Team *team, const struct Order *order, struct Mixture *data, size_t first) {
  const size_t N = ranks_of(team), k = share_parts(team, order->parts), BT = team->B * team->T;
  for (size_t r = 0; data != NULL && r < N && first + r < team->shares; r++) {
    for (size_t i = 0; i < k; i++) {
      const size_t at = (r * k + i) * BT, batch = order->step * order->parts + (first + r) * k + i;
      mixture_batch(data, batch, team->hand[0] + at, team->hand[1] + at);
    }
  }
  ranks_scatter(&team->ranks, team->tokens, team->hand[0], k * BT * sizeof(int));
  ranks_scatter(&team->ranks, team->targets, team->hand[1], k * BT * sizeof(int));
}

/* The losses of all parts, in order; and whether another rank was asked to stop. */
static double gather_losses(struct Team *team, const struct Order *order) {
  const size_t N = ranks_of(team), k = share_parts(team, order->parts), each = losses_each(team, order->parts);
  double loss = 0;
  team->losses[(size_t)team->ranks.rank * each + each - 1] = interrupted();
  ranks_gather(&team->ranks, team->losses, each * sizeof(double));
  for (size_t share = 0; share < team->shares; share++) {
    const double *losses = team->losses + share % N * each + share / N * k;
    for (size_t i = 0; i < k; i++) loss += losses[i] / (double)order->parts;
  }
  for (size_t r = 1; r < N; r++) {
    if (team->losses[r * each + each - 1] > 0) interrupts_request();
  }
  return loss;
}

double order_gradients(struct Team *team, struct Gpt2 *model, const struct Order *order, struct Mixture *data) {
  const size_t N = ranks_of(team), rank = (size_t)team->ranks.rank, rounds = rounds_of(team);
  const size_t k = share_parts(team, order->parts), BT = team->B * team->T;
  double loss = 0, clock = clock_seconds();
  model->dropout.step = order->step;
  for (size_t round = 0; round < rounds; round++) {
    const size_t share = round * N + rank;
    if (N > 1) deal(team, order, data, round * N);
    team->exchanging += passed(&clock);
    for (size_t i = 0; i < k && share < team->shares; i++) {
      const struct BatchPart part = {share * k + i, order->parts, order->counted, .adds = i > 0};
      const size_t at = N > 1 ? i * BT : 0;
      if (N == 1) mixture_batch(data, order->step * order->parts + part.at, team->tokens, team->targets);
      const double of_part = gpt2_gradients(model, team->tokens + at, team->targets + at, part);
      if (team->shares == 1) loss += of_part / (double)order->parts;
      else team->losses[rank * losses_each(team, order->parts) + round * k + i] = of_part;
    }
    team->computing += passed(&clock);
    if (team->shares > 1) exchange_shares(team, model, order->step, round * N);
    team->exchanging += passed(&clock);
  }
  if (team->shares > 1) loss = gather_losses(team, order);
  team->exchanging += passed(&clock);
  return loss;
}

double team_gradients(struct Team *team, struct Gpt2 *model, struct Mixture *data, size_t step, size_t counted) {
  struct Order order = {.task = ORDER_GRADIENTS, .step = step, .parts = team->parts, .counted = counted};
  give_order(team, &order);
  return order_gradients(team, model, &order, data);
}

/* ---- the update --------------------------------------------------------------------------------- */

double order_norm(struct Team *team, struct Gpt2 *model) {
  update_squares(model, team->squares);
  double clock = clock_seconds(), sum = 0;
  ranks_gather_floats(&team->ranks, (float *)(void *)team->squares, team->piece_cuts);
  team->exchanging += passed(&clock);
  for (size_t i = 0; i < pieces_count(model); i++) sum += team->squares[i];
  return sqrt(sum);
}

double team_norm(struct Team *team, struct Gpt2 *model) {
  if (team->shares == 1) return update_norm(model);
  struct Order order = {.task = ORDER_NORM};
  give_order(team, &order);
  return order_norm(team, model);
}

void order_update(struct Team *team, struct Gpt2 *model, const struct Order *order) {
  update_own(model, &order->update, order->step, order->scale);
  double clock = clock_seconds();
  ranks_gather_floats(&team->ranks, model->params.first, team->cuts);
  team->exchanging += passed(&clock);
}

double team_update(struct Team *team, struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double norm) {
  if (team->shares == 1) return gpt2_update(model, update, step);
  struct Order order = {.task = ORDER_UPDATE, .step = step, .update = *update,
                        .scale = update_clip(norm, update->max_norm)};
  give_order(team, &order);
  order_update(team, model, &order);
  return norm;
}

/* ---- losses ------------------------------------------------------------------------------------- */

void order_losses(struct Team *team, struct Gpt2 *model, const struct Order *order) {
  const struct TeamLosses *asked = &order->asked;
  const size_t rank = (size_t)team->ranks.rank, batch = asked->first + rank;
  struct Gpt2 shape = asked->windows > 0 ? gpt2_eval_model(model) : *model;
  const size_t most = shape.B * shape.T;
  const bool several = team->ranks.count > 1;
  double clock = clock_seconds();
  if (several) {
    ranks_scatter(&team->ranks, team->tokens, team->hand[0], most * sizeof(int));
    ranks_scatter(&team->ranks, team->targets, team->hand[1], most * sizeof(int));
  }
  team->exchanging += passed(&clock);
  if (batch < asked->count) {
    if (asked->windows > 0) shape.B = size_min(shape.B, asked->windows - batch * shape.B);
    team->means[rank] = gpt2_loss(&shape, team->tokens, team->targets);
  }
  team->computing += passed(&clock);
  if (!several) return;
  ranks_gather(&team->ranks, team->means, sizeof(double));
  if (asked->windows > 0) {
    memcpy(team->row_losses + rank * most, shape.acts.losses, most * sizeof(float));
    ranks_gather(&team->ranks, team->row_losses, most * sizeof(float));
  }
  team->exchanging += passed(&clock);
}

size_t team_losses(struct Team *team, struct Gpt2 *model, struct TeamLosses asked, TeamReader *read, void *context) {
  const size_t N = ranks_of(team), count = size_min(N, asked.count - asked.first);
  const size_t most = asked.windows > 0 ? model->eval.B * model->eval.T : model->B * model->T;
  struct Order order = {.task = ORDER_LOSSES, .asked = asked};
  for (size_t r = 0; r < count; r++) {
    if (N == 1) read(context, asked.first, team->tokens, team->targets);
    else read(context, asked.first + r, team->hand[0] + r * most, team->hand[1] + r * most);
  }
  give_order(team, &order);
  order_losses(team, model, &order);
  return count;
}

/* ---- moments ------------------------------------------------------------------------------------ */

enum { MOMENTS_ROOM = 1 << 20 };  // bytes in a message
static char moments_room[MOMENTS_ROOM];

/* One of the two moments: where it begins or ends at a border. */
static size_t moments_at_border(const struct Border *border, bool second) { return second ? border->v : border->m; }

void order_send_moments(struct Team *team, const struct Gpt2 *model) {
  for (int second = 0; second < 2; second++) {
    const size_t count = moments_at_border(&model->own[1], second) - moments_at_border(&model->own[0], second);
    const char *bytes = second ? model->moments.v : model->moments.m;
    for (size_t at = 0; at < count; at += MOMENTS_ROOM) {
      ranks_send(&team->ranks, 0, bytes + at, size_min(MOMENTS_ROOM, count - at));
    }
  }
}

void team_collect(struct Team *team, const struct Gpt2 *model, TeamTaker *take, void *context) {
  const size_t N = ranks_of(team);
  struct Order order = {.task = ORDER_SEND_MOMENTS};
  give_order(team, &order);
  for (int second = 0; second < 2; second++) {
    take(context, second ? model->moments.v : model->moments.m, moments_at_border(&model->own[1], second));
    for (size_t r = 1; r < N; r++) {
      struct Border ends[2];
      for (size_t end = 0; end < 2; end++) {
        ends[end] = pieces_border(&model->config, model->moments.type, model->optimizer, r + end, N);
      }
      const size_t count = moments_at_border(&ends[1], second) - moments_at_border(&ends[0], second);
      for (size_t at = 0; at < count; at += MOMENTS_ROOM) {
        const size_t some = size_min(MOMENTS_ROOM, count - at);
        ranks_receive(&team->ranks, (int)r, moments_room, some);
        take(context, moments_room, some);
      }
    }
  }
}

void team_end(struct Team *team) {
  struct Order order = {.task = ORDER_END};
  give_order(team, &order);
  ranks_close(&team->ranks);
}
