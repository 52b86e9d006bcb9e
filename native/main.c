/* llmc-native: the engine as a program of its own. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "base/start.h"
#include "base/util.h"

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *help;
} commands[] = {
    {"train", command_train, "train a model on token files"},
    {"sample", command_sample, "generate tokens with a trained model"},
    {"generate", command_generate, "generate tokens for requests, one JSON line each on stdin"},
    {"eval", command_eval, "compute the loss of every token of a file, or of chosen rows"},
    {"bench", command_bench, "time training steps on random tokens"},
    {"init", command_init, "write random initial weights, for training from scratch"},
    {"isa", command_isa, "list the instruction sets of this build, and the one chosen here"},
    {"memory", command_memory, "print how much memory a run may take here"},
    {"ranks", command_ranks, "list the ranks that mpirun or srun started, and time their messages"},
    {"bench-kernels", command_bench_kernels, "time every operation of training steps"},
    {"bench-decode", command_bench_decode, "time the linear layers of decoding, and reading their weights"},
    {"debug-filter", command_debug_filter, "print the probabilities that tokens are sampled with"},
    {"debug-state", command_debug_state, "write one batch's logits, loss and gradients, for comparison"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

int main(int argc, char **argv) {
  start(&argc, &argv);
  for (int i = 0; argc > 1 && i < COMMANDS; i++) {
    if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
  }
  const int asked = argc > 1 && strcmp(argv[1], "--help") == 0;
  if (argc > 1 && !asked) die(EXIT_USAGE, "no subcommand '%s'; 'llmc-native --help' lists them", argv[1]);
  printf("usage: llmc-native SUBCOMMAND [--key value …]\n");
  for (int i = 0; i < COMMANDS; i++) printf("  %-14s %s\n", commands[i].name, commands[i].help);
  return asked ? EXIT_OK : EXIT_USAGE;
}
