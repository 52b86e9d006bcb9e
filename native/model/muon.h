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

/* One step's constants. */
struct Muon {
  double lr, weight_decay;
  double scale;             // of the gradient: below 1 where its norm is clipped
  uint64_t key;             // of the random bits that round the momentum
};

/* What the orthogonalisation works in. */
struct MuonScratch {
  float *next;           // (4C, C) or (C, 4C)
  float *gram, *square;  // (C, C)
};

/* Matrices of the same shape, one after the other. */
struct Matrices {
  size_t count, rows, columns;
};

/* Takes the scratch memory for the matrices of a model of C channels. */
struct MuonScratch muon_scratch(struct Arena *arena, size_t C);

/* One step on params (count, rows, columns), each matrix by itself, with the momentum (the same shape) in moments.m;
 * moments.v is not used. The gradients are overwritten. Returns the sum of their squares. */
double muon_update(const struct Kernels *kernels, const struct Workers *workers, struct MuonScratch scratch, float *params,
                   struct Moments moments, float *grads, const struct Muon *muon, struct Matrices shape);

#endif
