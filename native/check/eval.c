/* llmc-native eval: the loss of every token of a file, each predicted once, or of chosen rows of it.
 *
 * A row is a piece of the token file. The model reads all but its last token, and it prints the losses
 * of the tokens from `from` on. Without --rows, the rows are windows of T tokens (files/windows.h), the
 * last one shorter: every token but the first is predicted once, or with --max-tokens so many, spread over all. A
 * run's validation measures the same ones. Of a file with a mask they are cut windows (files/cuts.h), and a token that
 * does not count has the loss null. With --rows, a mask plays no part.
 *
 * A batch is as wide as its longest row. Shorter ones are filled up behind their end, where no printed
 * loss depends on it: attention looks back only.
 *
 * INT8 is not a type of training. With it the rows go through the decoder, a token of each at a time, and are predicted
 * by what a text would be written with.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/args.h"
#include "files/checkpoint.h"
#include "commands.h"
#include "files/dataloader.h"
#include "sample/decoder.h"
#include "files/file.h"
#include "files/line.h"
#include "files/format.h"
#include "files/windows.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/util.h"

enum { ROW_BYTES = 3 * sizeof(uint32_t) };

enum { BATCH_TOKENS = 1024 };  // in a batch, more or less, where no --batch-size is given

struct Options {
  const char *model, *data, *rows, *events;
  size_t batch_size, seq_len, max_tokens, threads;
  enum Dtype dtype;
};

struct Row {
  uint64_t start;
  uint32_t length, from;
};

struct Eval {
  struct Options options;
  struct Gpt2 model;
  struct Decoder decoder;  // the same model's, with INT8
  struct DataLoader loader;
  int rows_file;           // -1: windows
  struct Windows windows;
  size_t rows, predicted;  // how many there are, and the tokens that they predict
  size_t B, T;             // of the largest batch
  struct Row *batch;       // (B)
  int *tokens, *targets;   // (B, T)
  float *losses;           // (B, T)
  float *column;           // (B), with INT8
  struct Line line;
};

static struct Options read_options(int argc, char **argv) {
  struct Options o = {.events = "text", .threads = 1};
  const struct Arg args[] = {
      {"data", ARG_TEXT, &o.data, 0, 0, "token file"},
      {"model", ARG_TEXT, &o.model, 0, 0, "checkpoint to evaluate"},
      {"rows", ARG_TEXT, &o.rows, 0, 0, "file of rows; without it, windows of T tokens"},
      {"events", ARG_TEXT, &o.events, 0, 0, "format of stdout: text or json"},
      {"batch-size", ARG_COUNT, &o.batch_size, 0, 65536, "B, rows in a batch, 0: what fits"},
      {"seq-len", ARG_COUNT, &o.seq_len, 0, MOST_CONTEXT, "T, tokens in a window, 0: the model's context"},
      {"max-tokens", ARG_COUNT, &o.max_tokens, 0, 0x1p53, "tokens to predict, spread over all, 0: all"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "number of threads"},
      {"dtype", ARG_CHOICE, &(struct Choice){&o.dtype, WEIGHT_NAMES}, 0, 0,
       "what linear layers multiply: fp32, bf16, or int8 as decoding does"},
  };
  args_parse("eval", args, sizeof args / sizeof *args, argc, argv);
  if (o.dtype == INT8 && o.batch_size > DECODE_ROWS) {
    die(EXIT_USAGE, "with --dtype int8 --batch-size is at most %d, not %zu", DECODE_ROWS, o.batch_size);
  }
  if (o.data == NULL || o.model == NULL) die(EXIT_USAGE, "eval needs --data FILE and --model FILE");
  if (o.rows != NULL && (o.seq_len > 0 || o.max_tokens > 0)) {
    die(EXIT_USAGE, "--rows says what is evaluated: leave out --seq-len and --max-tokens");
  }
  if (strcmp(o.events, "text") != 0 && strcmp(o.events, "json") != 0) {
    die(EXIT_USAGE, "--events takes text or json, not '%s'", o.events);
  }
  return o;
}

/* ---- rows --------------------------------------------------------------------------------------- */

/* Row i, checked against the token file and the model: the file of rows is never trusted, not even to be
 * what it was a moment ago. */
static struct Row row_at(const struct Eval *eval, size_t i) {
  if (eval->rows_file < 0) {
    const struct Window window = windows_at(&eval->windows, i);
    return (struct Row){window.start, (uint32_t)window.length + 1, 1};
  }
  const char *path = eval->options.rows;
  const size_t maxT = eval->model.config.maxT;
  uint32_t words[3];
  file_read(eval->rows_file, path, words, sizeof words, HEADER_BYTES + i * sizeof words);
  const struct Row row = {words[0], words[1], words[2]};
  if (row.from < 1 || row.from >= row.length || row.start + row.length > eval->loader.count) {
    die(EXIT_BAD_DATA, "row %zu of %s is %u, %u, %u, which is not a piece of the %zu tokens of %s; make the rows "
        "for this file", i, path, words[0], row.length, row.from, (size_t)eval->loader.count, eval->loader.path);
  }
  if (row.length - 1 > maxT) {
    die(EXIT_BAD_DATA, "row %zu of %s has the model read %u tokens, but it has %zu positions; cut the row", i,
        path, row.length - 1, maxT);
  }
  return row;
}

/* Counts the windows of the token file. */
static void windows_open(struct Eval *eval) {
  const struct Options *o = &eval->options;
  const size_t maxT = eval->model.config.maxT;
  if (o->seq_len > maxT) {
    die(EXIT_USAGE, "--seq-len %zu is more than the %zu positions of %s; use at most that", o->seq_len, maxT,
        o->model);
  }
  eval->rows_file = -1;
  const size_t T = o->seq_len > 0 ? o->seq_len : maxT;
  const uint64_t targets = eval->loader.count - 1;
  if (eval->loader.masked) {
    dataloader_cut(&eval->loader, targets < T ? (size_t)targets : T);
    eval->windows = windows_of_cuts(&eval->loader.cuts, o->max_tokens, eval->loader.T);
  } else {
    eval->windows = windows_spread(targets, o->max_tokens, T);
  }
  eval->predicted = eval->windows.predicted;
  eval->T = eval->windows.T;
  eval->rows = eval->windows.count;
}

/* Opens the file of rows, checks every one, and finds out how many and how long they are. */
static void rows_open(struct Eval *eval) {
  const char *path = eval->options.rows;
  uint64_t size;
  int32_t header[HEADER_INTS];
  eval->rows_file = file_open(path, "llmc eval", &size);
  if (size < HEADER_BYTES) {
    die(EXIT_BAD_DATA, "%s is not a file of rows: it has %llu bytes, less than a header", path,
        (unsigned long long)size);
  }
  file_read(eval->rows_file, path, header, HEADER_BYTES, 0);
  if (header[ROWS_MAGIC_AT] != ROWS_MAGIC || header[ROWS_VERSION_AT] != ROWS_VERSION) {
    die(EXIT_BAD_DATA, "%s is not a file of rows: it begins with %d, %d, not %d, %d", path, header[ROWS_MAGIC_AT],
        header[ROWS_VERSION_AT], ROWS_MAGIC, ROWS_VERSION);
  }
  eval->rows = (uint32_t)header[ROWS_COUNT_AT];
  const uint64_t expected = HEADER_BYTES + (uint64_t)eval->rows * ROW_BYTES;
  if (size != expected) {
    die(EXIT_BAD_DATA, "%s is %s: %zu rows take %llu bytes, it has %llu; make it again", path,
        size < expected ? "cut short" : "damaged", eval->rows, (unsigned long long)expected,
        (unsigned long long)size);
  }
  if (eval->rows == 0) die(EXIT_BAD_DATA, "%s holds no rows; make it again", path);
  for (size_t i = 0; i < eval->rows; i++) {
    const struct Row row = row_at(eval, i);
    eval->T = size_max(eval->T, row.length - 1);
    eval->predicted += row.length - row.from;
  }
}

/* ---- memory ------------------------------------------------------------------------------------- */

static bool decodes(const struct Eval *eval) { return eval->options.dtype == INT8; }

static void layout(struct Eval *eval, struct Arena *arena, size_t B) {
  const size_t T = eval->T;
  if (decodes(eval)) {
    decoder_layout(&eval->decoder, arena, B, T);
    eval->losses = arena_alloc(arena, B * T, sizeof(float));
    eval->column = arena_alloc(arena, B, sizeof(float));
  } else {
    gpt2_layout(&eval->model, arena, B, T, false);
    eval->losses = eval->model.acts.losses;
  }
  eval->loader.T = T;
  dataloader_layout(&eval->loader, arena);
  eval->B = B;
  eval->batch = arena_alloc(arena, B, sizeof(struct Row));
  eval->tokens = arena_alloc(arena, B * T, sizeof(int));
  eval->targets = arena_alloc(arena, B * T, sizeof(int));
  const size_t size = 512 + 20 * T;  // a loss with its comma takes 16 bytes at most
  eval->line = (struct Line){arena_alloc(arena, size, 1), size, 0};
}

static size_t footprint(const struct Eval *eval, size_t B) {
  struct Eval trial = *eval;
  struct Arena arena = {0};
  layout(&trial, &arena, B);
  return arena_footprint(&arena);
}

/* Lays the largest batch out that was asked for, or, where none was, that is of use and fits. */
static void choose_batch(struct Eval *eval, struct Arena *arena, size_t available) {
  const size_t asked = eval->options.batch_size;
  const size_t useful = decodes(eval) ? DECODE_ROWS : ceil_div(BATCH_TOKENS, eval->T);
  size_t B = size_min(asked > 0 ? asked : useful, eval->rows);
  size_t fits = B;
  while (fits > 0 && footprint(eval, fits) > available) fits /= 2;
  if (asked == 0 && fits > 0) B = fits;
  layout(eval, arena, B);
  const size_t needed = arena_footprint(arena);
  if (needed <= available) return;
  char change[64] = "use a smaller model, or a shorter --seq-len";
  if (eval->rows_file >= 0) snprintf(change, sizeof change, "use a smaller model");
  if (fits > 0) snprintf(change, sizeof change, "use --batch-size %zu or less", fits);
  memory_refuse("the evaluation needs", needed, available, change);
}

/* ---- what is told ------------------------------------------------------------------------------- */

static bool json(const struct Eval *eval) { return strcmp(eval->options.events, "json") == 0; }

/* The plan, before the memory is taken: so its line is not in the arena. */
static void tell_start(struct Eval *eval, const struct Arena *arena, size_t available) {
  char line[1024];
  eval->line = (struct Line){line, sizeof line, 0};
  const struct Gpt2 *model = &eval->model;
  const struct Config *config = &model->config;
  const size_t parameters = gpt2_count(config) - (config->Vp - config->V) * config->C;
  const char *dtype = dtype_name(eval->options.dtype);
  const int threads = pool_threads(model->workers.pool);
  if (json(eval)) {
    line_add(&eval->line, "{\"event\":\"start\",\"parameters\":%zu,\"isa\":\"%s\",\"dtype\":\"%s\",\"multiplies_bf16\":%s,"
        "\"threads\":%d,\"batch_size\":%zu,\"seq_len\":%zu,\"rows\":%zu,\"tokens\":%zu,\"memory\":%zu,"
        "\"memory_available\":", parameters, model->kernels->name, dtype,
        model->kernels->multiplies_bf16 ? "true" : "false", threads, eval->B, eval->T, eval->rows,
        eval->predicted, arena_footprint(arena));
    if (available == SIZE_MAX) line_add(&eval->line, "null}\n");
    if (available != SIZE_MAX) line_add(&eval->line, "%zu}\n", available);
  } else {
    line_add(&eval->line, "memory: %.1f MB\nisa: %s, threads: %d, dtype: %s\n%zu tokens in %zu rows, %zu x %zu at a time\n",
        (double)arena_footprint(arena) / 1e6, model->kernels->name, threads, dtype,
        eval->predicted, eval->rows, eval->B, eval->T);
  }
  line_say(&eval->line);
}

/* A row's losses, the first of them that of the token at position start + from, and null where the target is -1. Returns
 * their sum. */
static double tell_row(struct Eval *eval, size_t i, const struct Row *row, const float *losses, const int *targets) {
  const size_t count = row->length - row->from, at = (size_t)row->start + row->from;
  losses += row->from - 1, targets += row->from - 1;
  if (json(eval)) line_add(&eval->line, "{\"event\":\"row\",\"row\":%zu,\"at\":%zu,\"losses\":[", i, at);
  double sum = 0;
  for (size_t t = 0; t < count; t++) {
    if (!isfinite(losses[t])) {
      die(EXIT_NOT_FINITE, "%s gives token %zu of %s the loss %g: its weights are NaN, infinite or far too "
          "large; use another", eval->options.model, at + t, eval->options.data, unsigned_nan((double)losses[t]));
    }
    if (json(eval) && t > 0) line_add(&eval->line, ",");
    if (json(eval) && targets[t] < 0) line_add(&eval->line, "null");
    else if (json(eval)) line_add(&eval->line, "%.9g", (double)losses[t]);
    sum += (double)losses[t];
  }
  if (json(eval)) {
    line_add(&eval->line, "]}\n");
  } else if (eval->rows_file >= 0) {
    line_add(&eval->line, "row %zu: loss %f over %zu tokens\n", i, sum / (double)count, count);
  }
  line_say(&eval->line);
  return sum;
}

/* ---- the evaluation ----------------------------------------------------------------------------- */

/* Reads rows first … first + n - 1 into a batch as wide as the longest of them. */
static void fill_batch(struct Eval *eval, size_t first, size_t n) {
  size_t T = 1;
  for (size_t b = 0; b < n; b++) {
    eval->batch[b] = row_at(eval, first + b);
    T = size_max(T, eval->batch[b].length - 1);
  }
  if (T > eval->T) die(EXIT_BAD_DATA, "%s changed while it was read; make it again", eval->options.rows);
  memset(eval->tokens, 0, n * T * sizeof(int));
  memset(eval->targets, 0, n * T * sizeof(int));
  for (size_t b = 0; b < n; b++) {
    dataloader_run(&eval->loader, eval->batch[b].start, eval->batch[b].length - 1, eval->tokens + b * T,
                   eval->targets + b * T);
    if (eval->rows_file < 0) dataloader_uncount(&eval->loader, windows_at(&eval->windows, first + b), eval->targets + b * T);
  }
  eval->model.B = n, eval->model.T = T;  // less than was laid out, at most
}

/* The losses of a batch, token after token of all its rows. */
static void decode_losses(struct Eval *eval) {
  const struct Kernels *k = eval->model.kernels;
  const size_t n = eval->model.B, T = eval->model.T;
  struct Decoder *d = &eval->decoder;
  struct Feed feeds[DECODE_ROWS];
  int targets[DECODE_ROWS];
  for (size_t t = 0; t < T; t++) {
    for (size_t b = 0; b < n; b++) {
      feeds[b] = (struct Feed){.slot = b, .position = t, .token = eval->tokens[b * T + t]};
      targets[b] = eval->targets[b * T + t];
    }
    decoder_step(d, feeds, n);
    k->crossentropy(&d->workers, eval->column, d->logits, targets, 1, n, d->config.V, d->config.Vp);
    for (size_t b = 0; b < n; b++) eval->losses[b * T + t] = eval->column[b];
  }
}

static void evaluate(struct Eval *eval) {
  double sum = 0;
  for (size_t first = 0; first < eval->rows; first += eval->B) {
    const size_t n = size_min(eval->B, eval->rows - first);
    fill_batch(eval, first, n);
    if (decodes(eval)) decode_losses(eval);
    else gpt2_loss(&eval->model, eval->tokens, eval->targets);
    for (size_t b = 0; b < n; b++) {
      const size_t at = b * eval->model.T;
      sum += tell_row(eval, first + b, &eval->batch[b], eval->losses + at, eval->targets + at);
    }
  }
  if (json(eval)) return;
  line_add(&eval->line, "loss %f over %zu tokens\n", sum / (double)eval->predicted, eval->predicted);
  line_say(&eval->line);
}

int command_eval(int argc, char **argv) {
  struct Eval eval = {.options = read_options(argc, argv)};
  const struct Options *o = &eval.options;
  struct Checkpoint checkpoint;
  const int file = checkpoint_open(o->model, &checkpoint);
  dataloader_open(&eval.loader, o->data, 1, 1, checkpoint.config.V);
  eval.model = (struct Gpt2){.config = checkpoint.config, .kernels = kernels_choose(o->dtype, NULL), .dtype = o->dtype,
                             .recompute = true};  // one layer's activations are enough: nothing goes back
  if (o->rows != NULL) rows_open(&eval);
  else windows_open(&eval);
  eval.model.workers.pool = pool_create((int)o->threads);
  eval.decoder = (struct Decoder){.config = checkpoint.config, .kernels = eval.model.kernels, .dtype = o->dtype,
                                  .workers.pool = eval.model.workers.pool};

  struct Arena arena = {0};
  const size_t available = memory_available();
  choose_batch(&eval, &arena, available);
  tell_start(&eval, &arena, available);
  arena_take(&arena);
  layout(&eval, &arena, eval.B);
  if (decodes(&eval)) {
    decoder_load(&eval.decoder, file, o->model, &checkpoint);
  } else {
    gpt2_first_touch(&eval.model, &arena);
    checkpoint_read(file, o->model, &checkpoint, eval.model.params.first);
  }
  evaluate(&eval);
  pool_destroy(eval.model.workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
