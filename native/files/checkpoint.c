#include "files/checkpoint.h"

#include <string.h>

#include "files/file.h"
#include "files/format.h"
#include "base/disk.h"
#include "base/util.h"

static size_t dimension(const char *path, const char *name, int32_t value, int32_t most) {
  if (value < 1 || value > most) {
    die(EXIT_BAD_DATA, "%s is damaged: its header gives %s = %d, which must be 1 to %d; "
        "make the file again", path, name, value, most);
  }
  return (size_t)value;
}

/* Whether all that the extension uses is zero, as in a file of llm.c's. Other numbers without the magic are damage. */
static bool unextended(const int32_t *header) {
  for (int i = EXT_MAGIC_AT; i <= EXT_HEADER_CRC_AT; i++) {
    if (header[i] != 0) return false;
  }
  return true;
}

static void check_header(const char *path, const int32_t *header) {
  const uint32_t crc = file_header_checksum(header, EXT_HEADER_CRC_AT), told = (uint32_t)header[EXT_HEADER_CRC_AT];
  if (unextended(header)) return;
  if (header[EXT_MAGIC_AT] != EXT_MAGIC) {
    die(EXIT_BAD_DATA, "%s is damaged: its header is neither llm.c's nor llmc's; make it again", path);
  }
  const int32_t version = header[EXT_VERSION_AT];
  if (version != EXT_VERSION && version != EXT_VERSION_BARE) {
    die(EXIT_BAD_DATA, "%s was written by a newer llmc (header extension %d, this one knows %d); "
        "update llmc", path, version, EXT_VERSION);
  }
  if (told != (version == EXT_VERSION ? crc : 0)) {
    die(EXIT_BAD_DATA, "%s is damaged: its header has checksum %08x and says %08x; make it again", path, crc, told);
  }
}

static void read_extension(const int32_t *header, struct Checkpoint *checkpoint) {
  checkpoint->extended = header[EXT_MAGIC_AT] == EXT_MAGIC;
  if (!checkpoint->extended) return;
  checkpoint->crc = (uint32_t)header[EXT_CRC_AT];
  checkpoint->step = (uint32_t)header[EXT_STEP_AT];
  checkpoint->has_tokenizer = header[EXT_FLAGS_AT] & EXT_HAS_TOKENIZER;
  checkpoint->has_val_loss = header[EXT_FLAGS_AT] & EXT_HAS_VAL_LOSS;
  memcpy(&checkpoint->val_loss, &header[EXT_VAL_LOSS_AT], sizeof(float));
  memcpy(checkpoint->tokenizer, &header[EXT_TOKENIZER_AT], EXT_TOKENIZER_BYTES);
}

static size_t bytes_per_value(int version) { return version == MODEL_BF16 ? 2 : 4; }

/* Values that wte has more in memory, padded to Vp rows, than in the file. */
static size_t missing_padding(const struct Checkpoint *checkpoint) {
  const struct Config *config = &checkpoint->config;
  return checkpoint->version == MODEL_FP32_UNPADDED ? (config->Vp - config->V) * config->C : 0;
}

int checkpoint_open(const char *path, struct Checkpoint *checkpoint) {
  uint64_t size;
  int file = file_open(path, "llmc export-weights", &size);
  int32_t header[HEADER_INTS];
  if (size < HEADER_BYTES) {
    die(EXIT_BAD_DATA, "%s is not a model: it has %llu bytes, less than a header; "
        "make it with 'llmc export-weights MODEL'", path, (unsigned long long)size);
  }
  file_read(file, path, header, HEADER_BYTES, 0);
  if (header[MODEL_MAGIC_AT] != MODEL_MAGIC) {
    die(EXIT_BAD_DATA, "%s is not a model: it begins with %d, a checkpoint with %d; "
        "make one with 'llmc export-weights MODEL'", path, header[MODEL_MAGIC_AT], MODEL_MAGIC);
  }
  const int version = header[MODEL_VERSION_AT];
  if (version != MODEL_FP32_UNPADDED && version != MODEL_FP32 && version != MODEL_BF16) {
    die(EXIT_BAD_DATA, "%s is a checkpoint of version %d; llmc reads versions 1, 3 and 5; "
        "export the weights again", path, version);
  }
  *checkpoint = (struct Checkpoint){.version = version};
  struct Config *config = &checkpoint->config;
  config->maxT = dimension(path, "maxT", header[MODEL_CONTEXT_AT], MOST_CONTEXT);
  config->V = dimension(path, "V", header[MODEL_VOCAB_AT], MOST_VOCAB);
  config->L = dimension(path, "L", header[MODEL_LAYERS_AT], MOST_LAYERS);
  config->NH = dimension(path, "NH", header[MODEL_HEADS_AT], MOST_HEADS);
  config->C = dimension(path, "C", header[MODEL_CHANNELS_AT], MOST_CHANNELS);
  config->Vp = round_up(config->V, VOCAB_MULTIPLE);
  if (version != MODEL_FP32_UNPADDED && config->Vp != (size_t)header[MODEL_PADDED_VOCAB_AT]) {
    die(EXIT_BAD_DATA, "%s is damaged: its header pads %zu tokens to %d, not to %zu; make it again",
        path, config->V, header[MODEL_PADDED_VOCAB_AT], config->Vp);
  }
  if (config->C % config->NH != 0) {
    die(EXIT_BAD_DATA, "%s is damaged: %zu heads do not divide %zu channels; make it again",
        path, config->NH, config->C);
  }
  size_t values = gpt2_count(config) - missing_padding(checkpoint);
  size_t expected = HEADER_BYTES + size_product(values, bytes_per_value(version));
  if (size != expected) {
    die(EXIT_BAD_DATA, "%s is %s: its header asks for %zu bytes, it has %llu; make it again",
        path, size < expected ? "cut short" : "damaged", expected, (unsigned long long)size);
  }
  check_header(path, header);
  read_extension(header, checkpoint);
  return file;
}

/* `count` values of the file as floats; the checksum goes on. */
static void read_values(int file, const char *path, float *to, size_t count, size_t width, uint64_t *offset,
                        uint32_t *crc) {
  enum { PIECE = 1 << 15 };
  for (size_t at = 0; at < count; at += PIECE) {
    const size_t piece = size_min(PIECE, count - at);
    uint16_t narrow[PIECE];
    void *bytes = width == 4 ? (void *)(to + at) : narrow;
    file_read(file, path, bytes, piece * width, *offset);
    *crc = crc32_update(*crc, bytes, piece * width);
    for (size_t i = 0; width == 2 && i < piece; i++) to[at + i] = bf16_to_float(narrow[i]);
    *offset += piece * width;
  }
}

void checkpoint_read_rows(int file, const char *path, const struct Checkpoint *checkpoint,
                          const struct CheckpointSink *sink) {
  const struct Config *config = &checkpoint->config;
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(config, tensors);
  uint32_t crc = 0;
  uint64_t offset = HEADER_BYTES;
  for (size_t i = 0; i < GPT2_TENSOR_COUNT; i++) {
    const size_t K = tensors[i].columns, rows = tensors[i].rows * (tensors[i].place == BLOCK ? config->L : 1);
    const size_t in_file = i == 0 ? rows - missing_padding(checkpoint) / K : rows, most = size_max(sink->room / K, 1);
    for (size_t row = 0, count; row < rows; row += count) {
      const bool padding = row >= in_file;
      count = size_min(most, (padding ? rows : in_file) - row);
      const struct CheckpointRows piece = {i, row, count, K};
      float *to = sink->place(sink->context, &piece);
      if (padding) memset(to, 0, count * K * sizeof *to);
      else read_values(file, path, to, count * K, bytes_per_value(checkpoint->version), &offset, &crc);
      if (sink->done != NULL) sink->done(sink->context, &piece);
    }
  }
  disk_close(file);
  if (checkpoint->extended && crc != checkpoint->crc) {
    die(EXIT_BAD_DATA, "%s is damaged: its weights have checksum %08x, its header says %08x; "
        "make it again", path, crc, checkpoint->crc);
  }
}

/* One after the other, as they come. */
static float *place_next(void *context, const struct CheckpointRows *rows) {
  float **next = context, *here = *next;
  *next += rows->count * rows->columns;
  return here;
}

void checkpoint_read(int file, const char *path, const struct Checkpoint *checkpoint, float *params) {
  float *next = params;
  checkpoint_read_rows(file, path, checkpoint, &(struct CheckpointSink){&next, 1 << 20, place_next, NULL});
}

size_t checkpoint_bytes(const struct Config *config) { return HEADER_BYTES + gpt2_count(config) * sizeof(float); }

void checkpoint_write(struct FileWriter *writer, const char *path, const struct Checkpoint *checkpoint,
                      const float *params) {
  const struct Config *config = &checkpoint->config;
  const size_t bytes = gpt2_count(config) * sizeof(float);
  int32_t header[HEADER_INTS] = {0};
  header[MODEL_MAGIC_AT] = MODEL_MAGIC;
  header[MODEL_VERSION_AT] = MODEL_FP32;
  header[MODEL_CONTEXT_AT] = (int32_t)config->maxT;
  header[MODEL_VOCAB_AT] = (int32_t)config->V;
  header[MODEL_LAYERS_AT] = (int32_t)config->L;
  header[MODEL_HEADS_AT] = (int32_t)config->NH;
  header[MODEL_CHANNELS_AT] = (int32_t)config->C;
  header[MODEL_PADDED_VOCAB_AT] = (int32_t)config->Vp;
  header[EXT_MAGIC_AT] = EXT_MAGIC;
  header[EXT_VERSION_AT] = EXT_VERSION;
  header[EXT_CRC_AT] = (int32_t)crc32_update(0, params, bytes);
  header[EXT_STEP_AT] = (int32_t)checkpoint->step;
  header[EXT_FLAGS_AT] = (checkpoint->has_tokenizer ? EXT_HAS_TOKENIZER : 0) |
                         (checkpoint->has_val_loss ? EXT_HAS_VAL_LOSS : 0);
  memcpy(&header[EXT_VAL_LOSS_AT], &checkpoint->val_loss, sizeof(float));
  memcpy(&header[EXT_TOKENIZER_AT], checkpoint->tokenizer, EXT_TOKENIZER_BYTES);
  header[EXT_HEADER_CRC_AT] = (int32_t)file_header_checksum(header, EXT_HEADER_CRC_AT);

  file_writer_open(writer, path);
  file_writer_write(writer, header, HEADER_BYTES);
  file_writer_write(writer, params, bytes);
}
