/* llmc-native bench-kernels: every operation of a training step alone, at the shapes of a model.
 *
 * A pass goes through the layers and times one call of each operation on each; what a step does once
 * is timed once. So between two calls of an operation every other one has had the caches, and its
 * weights come from where they come from in training. Next to every layer the peak is measured again.
 */
#include <stdio.h>
#include <string.h>

#include "check/bench_model.h"
#include "commands.h"
#include "base/pool.h"
#include "base/util.h"

/* In the order of a step: forward, then backward, of a layer; then what lies outside the layers. */
enum Operation {
  LAYERNORM_FORWARD, QKV_FORWARD, ATTENTION_FORWARD, ATTPROJ_FORWARD, FC_FORWARD, FCPROJ_FORWARD,
  FCPROJ_BACKWARD_WEIGHT, FCPROJ_BACKWARD_INPUT, FC_BACKWARD_WEIGHT, FC_BACKWARD_INPUT, LAYERNORM_BACKWARD,
  ATTPROJ_BACKWARD_WEIGHT, ATTPROJ_BACKWARD_INPUT, ATTENTION_BACKWARD, QKV_BACKWARD_WEIGHT, QKV_BACKWARD_INPUT,
  HEAD_FORWARD, CROSSENTROPY, HEAD_BACKWARD_INPUT, HEAD_BACKWARD_WEIGHT,
  ENCODER_FORWARD, ENCODER_BACKWARD, SUM_SQUARES, ADAMW_UPDATE,
  OPERATIONS, FIRST_OUTSIDE = HEAD_FORWARD,
};

/* The calls are gpt2.c's, on layer l; of the head, the first chunk of rows. */
static void call(struct BenchModel *bench, enum Operation operation, size_t l) {
  struct Gpt2 *model = &bench->gpt2;
  const struct Kernels *k = model->kernels;
  const struct Workers *w = &model->workers;
  const struct Parameters p = gpt2_block_parameters(model, model->params, l);
  const struct Parameters g = gpt2_block_parameters(model, model->grads, l);
  const struct Activations a = gpt2_block_activations(model, l);
  const struct ActivationGradients *d = &model->dacts;
  const size_t B = model->B, T = model->T, BT = B * T, C = model->config.C, NH = model->config.NH;
  const size_t V = model->config.V, Vp = model->config.Vp, rows = size_min(HEAD_ROWS, BT);
  const float *residual1 = l == 0 ? a.encoded : a.residual3 - BT * C;
  const struct AdamW still = {.lr = 0, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,  // lr 0: the weights stay
                              .correction1 = 0.1, .correction2 = 0.001, .scale = 1};

  switch (operation) {
    case LAYERNORM_FORWARD:
      k->layernorm_forward(w, a.ln1, a.ln1_mean, a.ln1_rstd, residual1, p.ln1w, p.ln1b, BT, C);
      break;
    case QKV_FORWARD: k->linear_forward(w, a.qkv, a.ln1, p.qkvw, p.qkvb, BT, 3 * C, C); break;
    case ATTENTION_FORWARD: k->attention_forward(w, a.att, a.lse, a.qkv, B, T, C, NH); break;
    case ATTPROJ_FORWARD:
      k->linear_residual(w, a.residual2, residual1, a.att, p.attprojw, p.attprojb, BT, C, C);
      break;
    case FC_FORWARD: k->linear_gelu(w, a.fch_gelu, a.fch_slope, a.ln2, p.fcw, p.fcb, BT, 4 * C, C); break;
    case FCPROJ_FORWARD:
      k->linear_residual(w, a.residual3, a.residual2, a.fch_gelu, p.fcprojw, p.fcprojb, BT, C, 4 * C);
      break;
    case FCPROJ_BACKWARD_WEIGHT:
      k->linear_backward_weight(w, g.fcprojw, g.fcprojb, d->residual, a.fch_gelu, false, BT, C, 4 * C);
      break;
    case FCPROJ_BACKWARD_INPUT:
      k->linear_backward_gelu(w, d->fch, d->residual, a.fch_slope, p.fcprojw, BT, C, 4 * C);
      break;
    case FC_BACKWARD_WEIGHT:
      k->linear_backward_weight(w, g.fcw, g.fcb, d->fch, a.ln2, false, BT, 4 * C, C);
      break;
    case FC_BACKWARD_INPUT: k->linear_backward_input(w, d->branch, d->fch, p.fcw, BT, 4 * C, C); break;
    case LAYERNORM_BACKWARD:
      k->layernorm_backward(w, d->residual, g.ln2w, g.ln2b, d->branch, a.residual2, a.ln2_mean, a.ln2_rstd,
                            p.ln2w, BT, C);
      break;
    case ATTPROJ_BACKWARD_WEIGHT:
      k->linear_backward_weight(w, g.attprojw, g.attprojb, d->residual, a.att, false, BT, C, C);
      break;
    case ATTPROJ_BACKWARD_INPUT: k->linear_backward_input(w, d->branch, d->residual, p.attprojw, BT, C, C); break;
    case ATTENTION_BACKWARD:
      k->attention_backward(w, d->qkv, d->branch, a.qkv, a.att, a.lse, B, T, C, NH);
      break;
    case QKV_BACKWARD_WEIGHT:
      k->linear_backward_weight(w, g.qkvw, g.qkvb, d->qkv, a.ln1, false, BT, 3 * C, C);
      break;
    case QKV_BACKWARD_INPUT: k->linear_backward_input(w, d->branch, d->qkv, p.qkvw, BT, 3 * C, C); break;
    case HEAD_FORWARD:
      k->linear_forward(w, array_of(a.logits), a.lnf, p.wte, NULL, rows, Vp, C);
      break;
    case CROSSENTROPY:
      k->crossentropy(w, a.losses, a.logits, bench->targets, 1 / (float)BT, rows, V, Vp);
      break;
    case HEAD_BACKWARD_INPUT:
      k->linear_backward_input(w, d->branch, a.logits, p.wte, rows, Vp, C);
      break;
    case HEAD_BACKWARD_WEIGHT:
      k->linear_backward_weight(w, g.wte, NULL, a.logits, a.lnf, false, rows, Vp, C);
      break;
    case ENCODER_FORWARD:
      k->encoder_forward(w, a.encoded, bench->tokens, p.wte, p.wpe, B, T, C);
      break;
    case ENCODER_BACKWARD:
      k->encoder_backward(w, g.wte, g.wpe, d->residual, bench->tokens, B, T, C);
      break;
    case SUM_SQUARES:
      k->sum_squares(w, g.first, model->count);
      break;
    case ADAMW_UPDATE:
      k->adamw_update(w, p.first, model->moments, g.first, &still, model->count);
      break;
    case OPERATIONS: break;
  }
}

/* A product's M rows, N outputs and K inputs; of what is bound by memory the bytes that it has to read
 * and write. Attention is neither. */
struct Shape {
  const char *name;
  size_t M, N, K, bytes;
};

static void describe(const struct Gpt2 *model, struct Shape out[OPERATIONS]) {
  const size_t BT = model->B * model->T, C = model->config.C, Vp = model->config.Vp, count = model->count;
  const size_t rows = size_min(HEAD_ROWS, BT), word = sizeof(float);
  const struct Shape list[OPERATIONS] = {
      [LAYERNORM_FORWARD] = {"layernorm_forward", .bytes = BT * C * (word + dtype_size(model->dtype))},
      [QKV_FORWARD] = {"qkv_forward", BT, 3 * C, C, 0},
      [ATTENTION_FORWARD] = {"attention_forward", 0, 0, 0, 0},
      [ATTPROJ_FORWARD] = {"attproj_forward", BT, C, C, 0},
      [FC_FORWARD] = {"fc_forward", BT, 4 * C, C, 0},
      [FCPROJ_FORWARD] = {"fcproj_forward", BT, C, 4 * C, 0},
      [FCPROJ_BACKWARD_WEIGHT] = {"fcproj_backward_weight", BT, C, 4 * C, 0},
      [FCPROJ_BACKWARD_INPUT] = {"fcproj_backward_input", BT, C, 4 * C, 0},
      [FC_BACKWARD_WEIGHT] = {"fc_backward_weight", BT, 4 * C, C, 0},
      [FC_BACKWARD_INPUT] = {"fc_backward_input", BT, 4 * C, C, 0},
      [LAYERNORM_BACKWARD] = {"layernorm_backward", .bytes = 4 * BT * C * word},
      [ATTPROJ_BACKWARD_WEIGHT] = {"attproj_backward_weight", BT, C, C, 0},
      [ATTPROJ_BACKWARD_INPUT] = {"attproj_backward_input", BT, C, C, 0},
      [ATTENTION_BACKWARD] = {"attention_backward", 0, 0, 0, 0},
      [QKV_BACKWARD_WEIGHT] = {"qkv_backward_weight", BT, 3 * C, C, 0},
      [QKV_BACKWARD_INPUT] = {"qkv_backward_input", BT, 3 * C, C, 0},
      [HEAD_FORWARD] = {"head_forward", rows, Vp, C, 0},
      [CROSSENTROPY] = {"crossentropy", .bytes = 2 * rows * Vp * word},
      [HEAD_BACKWARD_INPUT] = {"head_backward_input", rows, Vp, C, 0},
      [HEAD_BACKWARD_WEIGHT] = {"head_backward_weight", rows, Vp, C, 0},
      [ENCODER_FORWARD] = {"encoder_forward", .bytes = 3 * BT * C * word},
      [ENCODER_BACKWARD] = {"encoder_backward", .bytes = 5 * BT * C * word},
      [SUM_SQUARES] = {"sum_squares", .bytes = count * word},
      [ADAMW_UPDATE] = {"adamw_update", .bytes = 7 * count * word},
  };
  memcpy(out, list, sizeof list);
}

struct Run {
  struct BenchModel bench;
  struct Shape shapes[OPERATIONS];
  const char *only;
};

static bool chosen(const struct Run *run, int operation) {
  return strncmp(run->shapes[operation].name, run->only, strlen(run->only)) == 0;
}

static void print_shapes(const struct Run *run) {
  for (int i = 0; i < OPERATIONS; i++) {
    const struct Shape *s = &run->shapes[i];
    if (!chosen(run, i)) continue;
    printf("{\"event\":\"kernel\",\"name\":\"%s\",\"M\":%zu,\"N\":%zu,\"K\":%zu,\"bytes\":%zu}\n",
           s->name, s->M, s->N, s->K, s->bytes);
  }
}

/* Times the peak, then one call of each operation from `begin` to before `end`. */
static void time_calls(struct Run *run, int begin, int end, size_t l, bool warm) {
  if (warm) bench_print_peak(&run->bench);
  for (int i = begin; i < end; i++) {
    if (!chosen(run, i)) continue;
    const double started = clock_seconds();
    call(&run->bench, (enum Operation)i, l);
    const double seconds = clock_seconds() - started;
    if (warm) printf("{\"event\":\"call\",\"name\":\"%s\",\"seconds\":%.9f}\n", run->shapes[i].name, seconds);
  }
}

int command_bench_kernels(int argc, char **argv) {
  struct Run run = {.only = ""};
  const struct Arg only = {"only", ARG_TEXT, &run.only, 0, 0, "how the names of the operations to time begin"};
  const struct BenchOptions o = bench_options("bench-kernels", DTYPE_NAMES, &only, argc, argv);
  struct Gpt2 *model = &run.bench.gpt2;
  bench_model_create(&run.bench, &o);
  describe(model, run.shapes);
  int count = 0;
  for (int i = 0; i < OPERATIONS; i++) count += chosen(&run, i);
  if (count == 0) die(EXIT_USAGE, "no operation's name begins with '%s'; leave out --only to see them all", run.only);
  bench_print_start(&run.bench);
  print_shapes(&run);

  bench_tokens(&run.bench, 0);
  /* Activations and gradients as they really are. */
  gpt2_gradients(model, run.bench.tokens, run.bench.targets, (struct BatchPart){0, 1});
  for (size_t pass = 0; pass < o.warmup + o.steps; pass++) {
    const bool warm = pass >= o.warmup;
    for (size_t l = 0; l < o.layers; l++) {
      /* Every layer adds to the gradient that flows back: new each time, it cannot grow without end. */
      bench_fill(model->dacts.residual, model->B * model->T * model->config.C, 1e-3f);
      time_calls(&run, 0, FIRST_OUTSIDE, l, warm);
    }
    time_calls(&run, FIRST_OUTSIDE, OPERATIONS, 0, warm);
    fflush(stdout);
  }
  printf("{\"event\":\"end\",\"peak_memory_bytes\":%zu}\n", bench_peak_memory());
  fflush(stdout);
  bench_model_free(&run.bench);
  return EXIT_OK;
}
