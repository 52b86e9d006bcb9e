/* The subcommands: one file each. argc and argv begin after the subcommand's name; the result is the
 * exit code. */
#ifndef LLMC_COMMANDS_H
#define LLMC_COMMANDS_H

int command_train(int argc, char **argv);
int command_sample(int argc, char **argv);
int command_generate(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_init(int argc, char **argv);
int command_isa(int argc, char **argv);
int command_ranks(int argc, char **argv);
int command_memory(int argc, char **argv);
int command_bench_kernels(int argc, char **argv);
int command_bench_decode(int argc, char **argv);
int command_debug_filter(int argc, char **argv);
int command_debug_state(int argc, char **argv);

#endif
