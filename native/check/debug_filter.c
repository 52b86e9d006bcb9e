/* llmc-native debug-filter: the probabilities that tokens are drawn with, for comparison with another
 * implementation of the filters. */
#include <string.h>

#include "base/args.h"
#include "commands.h"
#include "files/file.h"
#include "model/gpt2.h"
#include "sample/requests.h"
#include "base/disk.h"
#include "base/util.h"

int command_debug_filter(int argc, char **argv) {
  const char *path = NULL, *line = NULL, *out = NULL;
  size_t V = 0;
  const struct Arg args[] = {
      {"logits", ARG_TEXT, &path, 0, 0, "file of rows of V float32, without a header"},
      {"vocab-size", ARG_COUNT, &V, 1, MOST_VOCAB, "V"},
      {"request", ARG_TEXT, &line, 0, 0, "as generate takes it; its prompt is what the text holds, and what was written"},
      {"out", ARG_TEXT, &out, 0, 0, "file to write the rows' probabilities to, float32"},
  };
  args_parse("debug-filter", args, sizeof args / sizeof *args, argc, argv);
  if (path == NULL || line == NULL || out == NULL || V == 0) {
    die(EXIT_USAGE, "debug-filter needs --logits FILE, --vocab-size V, --request LINE and --out FILE");
  }
  uint64_t size;
  const int file = file_open(path, "numpy", &size);
  if (size % (V * sizeof(float)) != 0) die(EXIT_BAD_DATA, "%s holds no rows of %zu float32", path, V);

  const size_t length = strlen(line);
  struct Arena arena = {0};
  struct Sampler sampler;
  struct Request request = {0};
  float *logits = NULL;
  uint8_t *seen = NULL;
  uint32_t *written = NULL;
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) arena_take(&arena);
    sampler_layout(&sampler, &arena, kernels_best(), V, 1);
    logits = arena_alloc(&arena, V, sizeof *logits);
    seen = arena_alloc(&arena, V, 1);
    written = arena_alloc(&arena, V, sizeof *written);
    request.prompt = arena_alloc(&arena, length, sizeof *request.prompt);
  }
  char message[256];
  if (request_parse(&request, line, length, V, length, message) != ASKED_REQUEST) die(EXIT_USAGE, "%s", message);
  for (size_t i = 0; i < request.count; i++) seen[request.prompt[i]] = 1, written[request.prompt[i]]++;

  struct FileWriter writer = {0};
  file_writer_open(&writer, out);
  for (uint64_t at = 0; at < size; at += V * sizeof *logits) {
    file_read(file, path, logits, V * sizeof *logits, at);
    const double sum = sampler_filter(&sampler, &request.sampling, logits, (struct Past){seen, written}, V);
    for (size_t v = 0; v < V; v++) sampler.weights[v] = (float)((double)sampler.weights[v] / sum);
    file_writer_write(&writer, sampler.weights, V * sizeof *sampler.weights);
  }
  file_writer_commit(&writer);
  disk_close(file);
  arena_free(&arena);
  return EXIT_OK;
}
