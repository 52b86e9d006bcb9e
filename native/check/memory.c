/* llmc-native memory: what a run may take, as it reads it before it starts. */
#include "base/memory.h"

#include <stdint.h>
#include <stdio.h>

#include "base/args.h"
#include "base/util.h"
#include "commands.h"

int command_memory(int argc, char **argv) {
  args_parse("memory", NULL, 0, argc, argv);
  const size_t available = memory_available();
  if (available == SIZE_MAX) printf("{\"event\":\"memory\",\"available\":null}\n");
  else printf("{\"event\":\"memory\",\"available\":%zu}\n", available);
  return EXIT_OK;
}
