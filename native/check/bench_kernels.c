/* llmc-native bench-kernels: the time of every operation in real training steps.
 *
 * A step runs as in training, on a table of kernels that times each call. Calls of linear layers are named after
 * the tensor that they multiply by. Between two steps the peak of the machine is measured.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "base/pages.h"
#include "base/util.h"
#include "check/bench_model.h"
#include "check/profile.h"
#include "commands.h"

enum { NAME_BYTES = 48, MOST_OPERATIONS = 64 };

struct Operation {
  char name[NAME_BYTES];
  size_t M, N, K, bytes;
};

/* The tensor that a number of `all`, parameters or gradients, belongs to; NULL where it is none of them. */
static const struct Tensor *tensor_at(const struct Tensor *tensors, struct Parameters all, const float *at) {
  const float *end = all.first;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    end += (tensors[i].place == BLOCK ? all.blocks : 1) * tensors[i].rows * tensors[i].columns;
    if (at >= all.first && at < end) return &tensors[i];
  }
  return NULL;
}

/* Such as qkv_forward for a product with qkvw; wte is the head. Other operations keep their names. */
static void operation_name(const struct Gpt2 *model, const struct ProfileCall *call, char name[NAME_BYTES]) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  const bool weight = strcmp(call->operation, "linear_backward_weight") == 0;
  const bool input = !weight && strstr(call->operation, "backward") != NULL;
  const struct Tensor *tensor =
      call->M > 0 ? tensor_at(tensors, weight ? model->grads : model->params, call->weight) : NULL;
  if (tensor == NULL) {
    snprintf(name, NAME_BYTES, "%s", call->operation);
  } else {
    const bool head = strcmp(tensor->name, "wte") == 0;
    snprintf(name, NAME_BYTES, "%.*s_%s", head ? 4 : (int)strlen(tensor->name) - 1, head ? "head" : tensor->name,
             weight ? "backward_weight" : input ? "backward_input" : "forward");
  }
}

struct Run {
  struct BenchModel bench;
  const char *only;
  struct Operation operations[MOST_OPERATIONS];  // in the order of a step, those that are chosen
  size_t count;
};

static struct Operation *find(struct Run *run, const char *name) {
  for (size_t i = 0; i < run->count; i++) {
    if (strcmp(run->operations[i].name, name) == 0) return &run->operations[i];
  }
  return NULL;
}

static bool is_update(const struct ProfileCall *call) { return strcmp(call->operation, "adamw_update") == 0; }

static void step(struct Run *run, size_t number) {
  const struct UpdateConfig update = {1e-4, 0.9, 0.999, 1e-8, 0, 1, 0};  // max_norm 1: the norm is taken too
  struct Gpt2 *model = &run->bench.gpt2;
  bench_tokens(&run->bench, number);
  profile_reset();
  gpt2_gradients(model, run->bench.tokens, run->bench.targets, gpt2_whole(model, run->bench.targets));
  gpt2_update(model, &update, number + 1);
}

/* Collects the operations of the first step: the shape of the first call is the operation's, the bytes of an
 * update are those of all tensors. */
static void collect(struct Run *run) {
  size_t count;
  const struct ProfileCall *calls = profile_calls(&count);
  for (size_t i = 0; i < count; i++) {
    struct Operation found = {.M = calls[i].M, .N = calls[i].N, .K = calls[i].K, .bytes = calls[i].bytes};
    operation_name(&run->bench.gpt2, &calls[i], found.name);
    if (strncmp(found.name, run->only, strlen(run->only)) != 0) continue;
    struct Operation *known = find(run, found.name);
    if (known == NULL && run->count < MOST_OPERATIONS) run->operations[run->count++] = found;
    else if (known != NULL && is_update(&calls[i])) known->bytes += found.bytes;
  }
}

static void print_call(const char *name, double seconds) {
  printf("{\"event\":\"call\",\"name\":\"%s\",\"seconds\":%.9f}\n", name, seconds);
}

/* A call of another shape, as of a last chunk of rows, is left out; an update is one call for all tensors. */
static void print_calls(struct Run *run) {
  size_t count;
  double update = 0;
  const struct ProfileCall *calls = profile_calls(&count);
  for (size_t i = 0; i < count; i++) {
    char name[NAME_BYTES];
    operation_name(&run->bench.gpt2, &calls[i], name);
    const struct Operation *known = find(run, name);
    if (is_update(&calls[i])) {
      update += calls[i].seconds;
    } else if (known != NULL && known->M == calls[i].M && known->bytes == calls[i].bytes) {
      print_call(name, calls[i].seconds);
    }
  }
  if (find(run, "adamw_update") != NULL) print_call("adamw_update", update);
}

int command_bench_kernels(int argc, char **argv) {
  struct Run run = {.only = ""};
  const struct Arg only = {"only", ARG_TEXT, &run.only, 0, 0, "print operations whose names begin like this"};
  const struct BenchOptions o = bench_options("bench-kernels", DTYPE_NAMES, &only, argc, argv);
  bench_model_create(&run.bench, &o);
  run.bench.gpt2.kernels = profile_kernels(run.bench.gpt2.kernels);
  step(&run, 0);
  collect(&run);
  if (run.count == 0) {
    die(EXIT_USAGE, "no operation's name begins with '%s'; leave out --only to see them all", run.only);
  }
  bench_print_start(&run.bench);
  for (size_t i = 0; i < run.count; i++) {
    const struct Operation *p = &run.operations[i];
    printf("{\"event\":\"kernel\",\"name\":\"%s\",\"M\":%zu,\"N\":%zu,\"K\":%zu,\"bytes\":%zu}\n", p->name, p->M, p->N,
           p->K, p->bytes);
  }
  for (size_t number = 1; number < o.warmup + o.steps + 1; number++) {
    step(&run, number);
    if (number > o.warmup) print_calls(&run), bench_print_peak(&run.bench);
    fflush(stdout);
  }
  printf("{\"event\":\"end\",\"peak_memory_bytes\":%zu}\n", pages_peak());
  fflush(stdout);
  bench_model_free(&run.bench);
  return EXIT_OK;
}
