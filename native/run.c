#include "run.h"

#include <math.h>
#include <stdio.h>

#include "util.h"

void run_layout(struct Run *run, struct Arena *arena) {
  const struct RunOptions *o = &run->options;
  const size_t BT = o->batch_size * o->seq_len;
  gpt2_layout(&run->model, arena, o->batch_size, o->seq_len, true);
  dataloader_layout(&run->train, arena);
  if (o->val_data != NULL) dataloader_layout(&run->val, arena);
  decoder_layout(&run->decoder, arena, &run->model.config,
                 size_min(o->sample_tokens, run->model.config.maxT));
  sampler_layout(&run->sampler, arena, run->model.config.V);
  run->tokens = arena_alloc(arena, BT, sizeof(int));
  run->targets = arena_alloc(arena, BT, sizeof(int));
  run->written = arena_alloc(arena, o->sample_tokens, sizeof(int));
}

/* What a run that has to stop leaves behind, for the sentence that says so. */
static const char *last_save(const struct Run *run) {
  static char words[64];
  if (!run->saved) return "no weights were saved";
  snprintf(words, sizeof words, "the weights of step %u are saved", run->checkpoint.step);
  return words;
}

struct StepMetrics run_step(struct Run *run, size_t step) {
  const struct RunOptions *o = &run->options;
  const double started = clock_seconds();
  dataloader_batch(&run->train, step, run->tokens, run->targets);
  const struct UpdateConfig update = {o->lr, o->beta1, o->beta2, o->eps, o->weight_decay, o->grad_clip};
  const struct StepResult result = gpt2_step(&run->model, run->tokens, run->targets, &update, step + 1);
  const double loss = result.loss, norm = result.norm;
  if (!isfinite(loss) || !isfinite(norm)) {  // the weights in memory are lost then, those on the disk are not
    die(EXIT_NOT_FINITE, "the loss is %g and the gradient's norm %g at step %zu; %s; try a smaller --lr",
        loss, norm, step, last_save(run));
  }
  run->checkpoint.has_val_loss = false;  // it was the weights' before this update
  const double seconds = clock_seconds() - started;
  return (struct StepMetrics){
      .step = step, .train_loss = loss, .lr = o->lr, .grad_norm = norm, .step_ms = 1e3 * seconds,
      .tokens_per_second = (double)(o->batch_size * o->seq_len) / seconds};
}

size_t run_val_batches(const struct Run *run) {
  return size_min(run->options.val_batches, dataloader_batches(&run->val));
}

double run_val_batch(struct Run *run, size_t i) {
  dataloader_batch(&run->val, i, run->tokens, run->targets);
  return gpt2_loss(&run->model, run->tokens, run->targets);
}

void run_validate(struct Run *run, size_t step) {
  const size_t batches = run_val_batches(run);
  double sum = 0;
  for (size_t i = 0; i < batches; i++) sum += run_val_batch(run, i);
  run->val_loss = sum / (double)batches;
  if (!isfinite(run->val_loss)) {
    die(EXIT_NOT_FINITE, "the validation loss is %g at step %zu; %s; try a smaller --lr", run->val_loss, step,
        last_save(run));
  }
  run->checkpoint.has_val_loss = true;
  run->checkpoint.val_loss = (float)run->val_loss;
  events_validation(&run->events, step, run->val_loss);
}

size_t run_write(struct Run *run, size_t count) {
  count = size_min(count, run->decoder.positions);
  const size_t eot = run->options.eot;
  int token = (int)(eot > 0 ? eot : run->model.config.V - 1);
  for (size_t i = 0; i < count; i++) {
    decoder_step(&run->decoder, &run->model, token, i);
    token = sampler_draw(&run->sampler, run->decoder.logits, run->model.config.V);
    run->written[i] = token;
  }
  return count;
}

void run_sample(struct Run *run, size_t step) {
  const size_t count = run_write(run, run->options.sample_tokens);
  events_sample(&run->events, step, run->written, count);
}

void run_save(struct Run *run, size_t step) {
  if (run->options.out == NULL) return;
  run->checkpoint.step = (uint32_t)step;
  checkpoint_write(run->model_path, &run->checkpoint, run->model.params.first);
  run->saved = true;
  events_saved(&run->events, step, run->model_path);
}
