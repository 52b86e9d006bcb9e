#include "decoder.h"

#include <string.h>

#include "util.h"

static float *floats(struct Arena *arena, size_t rows, size_t columns) {
  return arena_alloc(arena, size_product(rows, columns), sizeof(float));
}

void decoder_layout(struct Decoder *decoder, struct Arena *arena, const struct Config *config,
                    size_t slots, size_t positions) {
  const size_t C = config->C, cached = size_product(size_product(config->L, slots), positions);
  decoder->slots = slots;
  decoder->positions = positions;
  decoder->keys = floats(arena, cached, C);
  decoder->values = floats(arena, cached, C);
  decoder->x = floats(arena, 1, C);
  decoder->ln = floats(arena, 1, C);
  decoder->qkv = floats(arena, 1, 3 * C);
  decoder->att = floats(arena, 1, C);
  decoder->fch = floats(arena, 1, 4 * C);
  decoder->fch_gelu = floats(arena, 1, 4 * C);
  decoder->logits = floats(arena, slots, config->Vp);
}

static void feed(struct Decoder *decoder, const struct Gpt2 *model, struct Feed next, float *logits) {
  const struct Kernels *k = model->kernels;
  struct Workers floats_only = model->workers;
  const struct Workers *w = &floats_only;
  const struct Parameters *p = &model->params;
  const size_t C = model->config.C, NH = model->config.NH;
  struct Decoder *d = decoder;
  struct Array ln = array_of(d->ln), qkv = array_of(d->qkv), att = array_of(d->att);
  struct Array fch = array_of(d->fch), fch_gelu = array_of(d->fch_gelu);
  float mean, rstd;
  floats_only.dtype = FP32;  // one row at a time: the weights' way through memory is all that costs

  k->encoder_forward(w, d->x, &next.token, p->wte, p->wpe + next.position * C, 1, 1, C);
  for (size_t l = 0; l < model->config.L; l++) {
    const size_t first = (l * d->slots + next.slot) * d->positions * C;
    float *keys = d->keys + first, *values = d->values + first;
    k->layernorm_forward(w, ln, &mean, &rstd, d->x, p->ln1w + l * C, p->ln1b + l * C, 1, C);
    k->linear_forward(w, qkv, ln, p->qkvw + l * 3 * C * C, p->qkvb + l * 3 * C, 1, 3 * C, C);
    memcpy(keys + next.position * C, d->qkv + C, C * sizeof(float));
    memcpy(values + next.position * C, d->qkv + 2 * C, C * sizeof(float));
    k->attention_decode(w, d->att, d->qkv, keys, values, next.position + 1, C, NH);
    /* The residual is added to itself in place: each output needs only its own old value. */
    k->linear_residual(w, d->x, d->x, att, p->attprojw + l * C * C, p->attprojb + l * C, 1, C, C);

    k->layernorm_forward(w, ln, &mean, &rstd, d->x, p->ln2w + l * C, p->ln2b + l * C, 1, C);
    k->linear_gelu(w, fch_gelu, fch, ln, p->fcw + l * 4 * C * C, p->fcb + l * 4 * C, 1, 4 * C, C);
    k->linear_residual(w, d->x, d->x, fch_gelu, p->fcprojw + l * C * 4 * C, p->fcprojb + l * C,
                       1, C, 4 * C);
  }
  k->layernorm_forward(w, ln, &mean, &rstd, d->x, p->lnfw, p->lnfb, 1, C);
  k->linear_forward(w, array_of(logits), ln, p->wte, NULL, 1, model->config.Vp, C);
}

void decoder_read(struct Decoder *decoder, const struct Gpt2 *model, size_t slot, const int *tokens,
                  size_t position, size_t count) {
  for (size_t i = 0; i < count; i++) {
    feed(decoder, model, (struct Feed){slot, position + i, tokens[i]}, decoder->logits);
  }
}

void decoder_step(struct Decoder *decoder, const struct Gpt2 *model, const struct Feed *feeds, size_t count) {
  for (size_t i = 0; i < count; i++) feed(decoder, model, feeds[i], decoder->logits + i * model->config.Vp);
}
