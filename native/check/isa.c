/* llmc-native isa: the tables in this binary, worst first, and the one that training would take. */
#include <math.h>
#include <stdio.h>

#include "base/args.h"
#include "base/util.h"
#include "commands.h"
#include "kernels/kernels.h"

/* By turns, and the best of each counts: a table that another program keeps waiting would look slow. */
enum { TURNS = 4, MOST_TABLES = 16 };

/* Of one thread, operations a second. */
struct Rates {
  double fp32, bf16;
};

int command_isa(int argc, char **argv) {
  enum Dtype dtype = FP32;
  bool rates = false;
  const char *prefer = NULL;
  const struct Arg args[] = {
      {"dtype", ARG_CHOICE, &(struct Choice){&dtype, DTYPE_NAMES}, 0, 0, "the type that is multiplied"},
      {"prefer-isa", ARG_TEXT, &prefer, 0, 0, "instruction set to take if it is among those of which the fastest is measured"},
      {"rates", ARG_SWITCH, &rates, 0, 1, "1: measure how fast one thread of each table multiplies"},
  };
  args_parse("isa", args, sizeof args / sizeof *args, argc, argv);
  const struct Kernels *kernels;
  struct Rates found[MOST_TABLES] = {{0}};
  for (int turn = 0; rates && turn < TURNS; turn++) {
    for (int i = 0; (kernels = kernels_at(i)) != NULL; i++) {
      if (!kernels_runnable(kernels) || kernels->peak_flops == NULL) continue;
      found[i].fp32 = fmax(found[i].fp32, kernels_rate(kernels, FP32));
      found[i].bf16 = fmax(found[i].bf16, kernels_rate(kernels, BF16));
    }
  }
  for (int i = 0; (kernels = kernels_at(i)) != NULL; i++) {
    printf("{\"event\":\"table\",\"isa\":\"%s\",\"runnable\":%s", kernels->name, kernels_runnable(kernels) ? "true" : "false");
    if (found[i].fp32 > 0) printf(",\"fp32_flops\":%.6g,\"bf16_flops\":%.6g", found[i].fp32, found[i].bf16);
    printf("}\n");
  }
  /* Last: it dies when LLMC_ISA names a table that cannot run, and the tables are known all the same. */
  printf("{\"event\":\"chosen\",\"isa\":\"%s\"}\n", kernels_choose(dtype, prefer)->name);
  return EXIT_OK;
}
