#include "decoder.h"

#include <string.h>

static float *floats(struct Arena *arena, size_t count) { return arena_alloc(arena, count, sizeof(float)); }

void decoder_layout(struct Decoder *decoder, struct Arena *arena, const struct Config *config,
                    size_t positions) {
  const size_t C = config->C;
  decoder->positions = positions;
  decoder->keys = floats(arena, config->L * positions * C);
  decoder->values = floats(arena, config->L * positions * C);
  decoder->x = floats(arena, C);
  decoder->ln = floats(arena, C);
  decoder->qkv = floats(arena, 3 * C);
  decoder->att = floats(arena, C);
  decoder->fch_gelu = floats(arena, 4 * C);
  decoder->logits = floats(arena, config->Vp);
}

void decoder_step(struct Decoder *decoder, const struct Gpt2 *model, int token, size_t position) {
  const struct Kernels *k = model->kernels;
  struct Workers floats_only = model->workers;
  const struct Workers *w = &floats_only;
  const struct Parameters *p = &model->params;
  const size_t C = model->config.C, NH = model->config.NH;
  struct Decoder *d = decoder;
  struct Array ln = array_of(d->ln), qkv = array_of(d->qkv), att = array_of(d->att);
  const struct Array fch_gelu = array_of(d->fch_gelu), nowhere = {0};
  float mean, rstd;
  floats_only.dtype = FP32;  // one row at a time: the weights' way through memory is all that costs

  k->encoder_forward(w, d->x, &token, p->wte, p->wpe + position * C, 1, 1, C);
  for (size_t l = 0; l < model->config.L; l++) {
    float *keys = d->keys + l * d->positions * C, *values = d->values + l * d->positions * C;
    k->layernorm_forward(w, ln, &mean, &rstd, d->x, p->ln1w + l * C, p->ln1b + l * C, 1, C);
    k->linear_forward(w, qkv, ln, p->qkvw + l * 3 * C * C, p->qkvb + l * 3 * C, 1, 3 * C, C);
    memcpy(keys + position * C, d->qkv + C, C * sizeof(float));
    memcpy(values + position * C, d->qkv + 2 * C, C * sizeof(float));
    k->attention_decode(w, d->att, d->qkv, keys, values, position + 1, C, NH);
    /* The residual is added to itself in place: each output needs only its own old value. */
    k->linear_residual(w, d->x, d->x, att, p->attprojw + l * C * C, p->attprojb + l * C, 1, C, C);

    k->layernorm_forward(w, ln, &mean, &rstd, d->x, p->ln2w + l * C, p->ln2b + l * C, 1, C);
    k->linear_gelu(w, fch_gelu, nowhere, ln, p->fcw + l * 4 * C * C, p->fcb + l * 4 * C, 1, 4 * C, C);
    k->linear_residual(w, d->x, d->x, fch_gelu, p->fcprojw + l * C * 4 * C, p->fcprojb + l * C,
                       1, C, 4 * C);
  }
  k->layernorm_forward(w, ln, &mean, &rstd, d->x, p->lnfw, p->lnfb, 1, C);
  k->linear_forward(w, array_of(d->logits), ln, p->wte, NULL, 1, model->config.Vp, C);
}
