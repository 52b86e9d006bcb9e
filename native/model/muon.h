/* Muon, the optimizer of hidden matrices: the update is the momentum of the gradient, made orthogonal.
 *
 * Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; scaled as by Liu et al. 2025, "Muon is
 * scalable for LLM training", so that AdamW's learning rate and weight decay hold; with these numbers
 * torch.optim.Muon(adjust_lr_fn="match_rms_adamw"). docs/engine/muon.md explains it.
 */
#ifndef LLMC_MUON_H
#define LLMC_MUON_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "kernels/kernels.h"

/* Matrices whose update is to be made orthogonal. */
struct MuonMatrix {
  float *params, *update;   // (rows, columns); the update is overwritten
  size_t rows, columns;
};

/* What the orthogonalisation works in: one place for all threads together, or one for each. */
struct MuonScratch {
  float *first;
  size_t C, floats;         // of the model; in a place
  bool alone;               // there is a place for each, and each works on matrices of its own
};

/* Takes the scratch memory for the matrices of a model of C channels, (C, C), (4C, C) and (C, 4C). */
struct MuonScratch muon_scratch(struct Arena *arena, const struct Kernels *kernels, size_t threads, size_t C);

/* The first half of a step on n parameters: their gradient, which is overwritten, becomes the update that is to be made
 * orthogonal, with the momentum in moments.m; moments.v is not used. The gradient is scaled first, by less than 1 where
 * its norm is clipped; key: of the random bits that round the momentum. Returns the sum of the gradient's squares. */
double muon_momentum(const struct Kernels *kernels, const struct Workers *workers, struct Moments moments, float *grads,
                     double scale, uint64_t key, size_t n);

/* The second half, on each matrix by itself. */
void muon_step(const struct Kernels *kernels, const struct Workers *workers, struct MuonScratch scratch,
               double lr, double weight_decay, const struct MuonMatrix *matrices, size_t count);

#endif
