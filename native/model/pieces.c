#include "model/pieces.h"

#include "base/util.h"

struct Pieces pieces_of(const struct Config *config, enum MomentsType type, enum Optimizer optimizer) {
  struct Pieces pieces = {.L = config->L, .type = type, .optimizer = optimizer};
  gpt2_tensors(config, pieces.tensors);
  return pieces;
}

bool pieces_next(struct Pieces *p, struct Piece *piece) {
  if (p->tensor == GPT2_TENSOR_COUNT) return false;
  const struct Tensor *tensor = &p->tensors[p->tensor];
  const bool muon = optimizer_is_muon(p->optimizer, tensor);
  const size_t size = gpt2_tensor_count(tensor, 1), n = muon ? size : size_min(PIECES_MOST, size - p->first);
  *piece = (struct Piece){tensor, muon, p->at.piece, p->first, n, p->at, p->tensor_m};
  const size_t bytes = moments_bytes(p->type, n);
  p->at.piece++, p->at.floats += n, p->at.m += bytes;
  if (!muon) p->at.v += bytes;
  p->first += n;
  if (p->first < size) return true;
  p->first = 0, p->tensor_m = p->at.m;
  if (++p->l == (tensor->place == BLOCK ? p->L : 1)) p->l = 0, p->tensor++;
  return true;
}

struct Border pieces_border(const struct Config *config, enum MomentsType type, enum Optimizer optimizer, size_t rank,
                      size_t count) {
  const size_t all = gpt2_count(config), wanted = all / count * rank + all % count * rank / count;
  struct Pieces pieces = pieces_of(config, type, optimizer);
  for (struct Piece piece; pieces.at.floats < wanted && pieces_next(&pieces, &piece);) {
  }
  return pieces.at;
}

size_t pieces_count(const struct Gpt2 *model) {
  return pieces_border(&model->config, model->moments.type, model->optimizer, 1, 1).piece;
}
