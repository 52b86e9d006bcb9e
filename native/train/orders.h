/* What rank 0 asks of the team, and what every rank does for it: team.c's, for worker.c. */
#ifndef LLMC_ORDERS_H
#define LLMC_ORDERS_H

#include "train/team.h"

enum OrderTask { ORDER_GRADIENTS, ORDER_NORM, ORDER_UPDATE, ORDER_LOSSES, ORDER_SEND_MOMENTS, ORDER_END };

struct Order {
  enum OrderTask task;
  size_t step, parts, counted;  // of gradients; step of an update, too
  struct UpdateConfig update;
  double scale;                 // of the gradient, in an update
  struct TeamLosses asked;
};

/* Without data on ranks above 0. */
double order_gradients(struct Team *team, struct Gpt2 *model, const struct Order *order, struct Mixture *data);
double order_norm(struct Team *team, struct Gpt2 *model);
void order_update(struct Team *team, struct Gpt2 *model, const struct Order *order);
void order_losses(struct Team *team, struct Gpt2 *model, const struct Order *order);
void order_send_moments(struct Team *team, const struct Gpt2 *model);

#endif
