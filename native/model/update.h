/* The optimizer's step: on all parameters, on the tensors of one block as soon as backward has made their gradients, or
 * on the pieces that are this rank's own.
 */
#ifndef LLMC_UPDATE_H
#define LLMC_UPDATE_H

#include "model/gpt2.h"

/* Step number `step`, counted from 1, on the tensors of the whole model, with l = 0, or on block l's, with their
 * gradients scaled. Returns the sum of the squares of the gradients. */
double update_tensors(struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double scale,
                      enum TensorPlace place, size_t l);

/* By what the gradient is scaled so that its norm is at most `most`, as torch.nn.utils.clip_grad_norm_ does; 0: not. */
double update_clip(double norm, double most);

/* The norm of the gradient in model->grads, summed as one array. */
double update_norm(const struct Gpt2 *model);

/* The sums of the squares of the gradient's own pieces, into squares (pieces) at their numbers. */
void update_squares(const struct Gpt2 *model, double *squares);

/* Step number `step` on the own pieces. */
void update_own(struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double scale);

#endif
