/* A rank above 0: it does what rank 0 asks, and touches no file. */
#include <stdio.h>
#include <string.h>

#include "base/cores.h"
#include "base/interrupts.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/util.h"
#include "train/orders.h"
#include "train/state.h"
#include "train/threads.h"

/* ---- before the work ------------------------------------------------------------------------------ */

/* What each rank tells first. */
struct RollCall {
  char machine[RANKS_NAME];
  uint64_t tables;  // kernel tables that it can run, by number
  uint64_t cores;   // the set of cores that it may use
};

void team_call(struct Team *team) {
  static struct RollCall calls[RANKS_MOST];
  struct RollCall *self = &calls[team->ranks.rank];
  self->tables = kernels_runnable_set(), self->cores = cores_set();
  memcpy(self->machine, team->ranks.machine, sizeof self->machine);
  ranks_gather(&team->ranks, calls, sizeof *self);
  size_t sharing = 0;
  team->tables = UINT64_MAX;
  for (int r = 0; r < team->ranks.count; r++) {
    team->tables &= calls[r].tables;
    sharing += calls[r].cores == self->cores && strcmp(calls[r].machine, self->machine) == 0;
  }
  team->threads = size_min(size_max((size_t)cores_physical() / sharing, 1), POOL_MAX_THREADS);
}

void team_plan(const struct Team *team, struct TeamPlan *plan) { ranks_broadcast(&team->ranks, plan, sizeof *plan); }

void team_gather_members(struct Team *team, const struct Gpt2 *model, size_t memory, size_t available) {
  struct Member *self = &team->members[team->ranks.rank];
  *self = (struct Member){.threads = (size_t)pool_threads(model->workers.pool), .memory = memory, .available = available};
  memcpy(self->machine, team->ranks.machine, sizeof self->machine);
  snprintf(self->isa, sizeof self->isa, "%s", model->kernels->name);
  ranks_gather(&team->ranks, team->members, sizeof *self);
}

static const struct Kernels *kernels_named(const char *name) {
  for (int i = 0; kernels_at(i) != NULL; i++) {
    if (strcmp(kernels_at(i)->name, name) == 0) return kernels_at(i);
  }
  die(EXIT_INTERNAL, "this build has no instruction set %s", name);
}

static void make_model(struct Gpt2 *model, struct Team *team, const struct TeamPlan *plan) {
  const size_t threads = plan->threads > 0 ? plan->threads : team->threads;
  *model = (struct Gpt2){.config = plan->config, .dtype = plan->dtype, .recompute = plan->recompute,
                         .eval = {.B = plan->eval_B, .T = plan->eval_T}, .optimizer = plan->optimizer,
                         .dropout = {.rate = plan->dropout, .seed = plan->seed}, .rank = (size_t)team->ranks.rank,
                         .ranks = (size_t)team->ranks.count};
  team->shares = plan->shares, team->parts = plan->parts, team->exchange_dtype = plan->exchange_dtype;
  team->B = plan->B, team->T = plan->T, team->eval_B = plan->eval_B, team->eval_T = plan->eval_T;
  model->adds_apart = team_adds_apart(team);
  model->moments.type = plan->moments;
  model->kernels = kernels_named(plan->isa);
  model->workers.pool = pool_create((int)threads);
  model->workers.dtype = plan->dtype;
}

static void lay_out(struct Gpt2 *model, struct Team *team, struct Arena *arena) {
  gpt2_layout(model, arena, team->B, team->T, true);
  team_layout(team, arena, model);
}

/* ---- the work ------------------------------------------------------------------------------------- */

static void work(struct Team *team, struct Gpt2 *model, struct ThreadTrial trial) {
  for (struct Order order;;) {
    ranks_broadcast(&team->ranks, &order, sizeof order);
    switch (order.task) {
      case ORDER_GRADIENTS:
        team_clock(team);
        order_gradients(team, model, &order, NULL);
        threads_take(&trial, model->workers.pool, 1e3 * team->computing);
        break;
      case ORDER_NORM: order_norm(team, model); break;
      case ORDER_UPDATE: order_update(team, model, &order); break;
      case ORDER_LOSSES: order_losses(team, model, &order); break;
      case ORDER_SEND_MOMENTS: order_send_moments(team, model); break;
      case ORDER_END: return;
    }
  }
}

int team_work(struct Team *team) {
  static struct Gpt2 model;
  struct Arena arena = {0};
  struct TeamPlan plan;
  team_call(team);
  team_plan(team, &plan);
  make_model(&model, team, &plan);
  interrupts_catch();
  lay_out(&model, team, &arena);
  const size_t needed = arena_footprint(&arena), available = memory_available();
  team_gather_members(team, &model, needed, available);
  if (needed > available) {
    memory_refuse("this rank needs", needed, available, "use a smaller --batch-size, --recompute, or more ranks");
  }
  arena_take(&arena);
  lay_out(&model, team, &arena);
  gpt2_first_touch(&model, &arena);
  ranks_broadcast(&team->ranks, model.params.first, model.count * sizeof(float));
  if (plan.goes_on) state_receive(&team->ranks, plan.stored, &model, plan.key);
  work(team, &model, (struct ThreadTrial){.settled = !plan.fewer_threads});
  ranks_close(&team->ranks);
  pool_destroy(model.workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
