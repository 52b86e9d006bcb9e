/* llmc-native isa: the tables in this binary, worst first, and the one that training would take. */
#include <stdio.h>

#include "base/args.h"
#include "commands.h"
#include "kernels/kernels.h"
#include "base/util.h"

int command_isa(int argc, char **argv) {
  args_parse("isa", NULL, 0, argc, argv);
  const struct Kernels *kernels;
  for (int i = 0; (kernels = kernels_at(i)) != NULL; i++) {
    printf("{\"event\":\"table\",\"isa\":\"%s\",\"runnable\":%s}\n", kernels->name,
           kernels_runnable(kernels) ? "true" : "false");
  }
  /* Last: it dies when LLMC_ISA asks for what cannot be, and the tables are known all the same. */
  printf("{\"event\":\"chosen\",\"isa\":\"%s\"}\n", kernels_choose()->name);
  return EXIT_OK;
}
