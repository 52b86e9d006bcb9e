#include "train/state.h"

#include <string.h>
#include <unistd.h>

#include "files/format.h"
#include "base/util.h"

/* 64-bit numbers take two ints, the lower half first. */
static void put(int32_t *header, int at, uint64_t value) { memcpy(header + at, &value, sizeof value); }

static uint64_t get(const int32_t *header, int at) {
  uint64_t value;
  memcpy(&value, header + at, sizeof value);
  return value;
}

static void put_double(int32_t *header, int at, double value) { memcpy(header + at, &value, sizeof value); }

static double get_double(const int32_t *header, int at) {
  double value;
  memcpy(&value, header + at, sizeof value);
  return value;
}

enum { WINDOW_BYTES = OUTLIERS_WINDOW * sizeof(double), MOMENTS_AT = HEADER_BYTES + 2 * WINDOW_BYTES };

size_t state_bytes(const struct Config *config, enum MomentsType moments, enum Optimizer optimizer) {
  return MOMENTS_AT + gpt2_m_bytes(config, moments) + gpt2_v_bytes(config, moments, optimizer);
}

static uint32_t windows_checksum(const struct Outliers *outliers) {
  return crc32_update(crc32_update(0, outliers->losses, WINDOW_BYTES), outliers->norms, WINDOW_BYTES);
}

void state_write(struct FileWriter *writer, const struct State *state, const struct Gpt2 *model) {
  const struct Moments *moments = &model->moments;
  int32_t header[HEADER_INTS] = {0};
  header[STATE_MAGIC_AT] = STATE_MAGIC;
  header[STATE_VERSION_AT] = STATE_VERSION;
  const uint32_t crc = crc32_update(windows_checksum(&state->outliers), moments->m, model->m_bytes);
  header[STATE_CRC_AT] = (int32_t)crc32_update(crc, moments->v, model->v_bytes);
  header[STATE_FLAGS_AT] = (state->shuffle ? STATE_SHUFFLED : 0) | (state->told ? STATE_TOLD : 0) |
                           (state->whole ? STATE_WHOLE : 0) | (state->aligned ? STATE_ALIGNED : 0);
  put(header, STATE_STEP_AT, state->step);
  put(header, STATE_METRICS_AT, state->metrics_bytes);
  put(header, STATE_DRAWS_AT, state->draws);
  put(header, STATE_SEED_AT, state->seed);
  put(header, STATE_SEQ_LEN_AT, state->seq_len);
  put(header, STATE_UPDATE_TOKENS_AT, state->update_tokens);
  put_double(header, STATE_BEST_AT, state->best_val_loss);
  put_double(header, STATE_SECONDS_AT, state->seconds);
  put_double(header, STATE_TO_BEAT_AT, state->patience.best);
  put(header, STATE_WAITED_AT, state->patience.waited);
  put(header, STATE_SKIPPED_AT, state->skipped);
  put(header, STATE_JUDGED_AT, state->outliers.count);
  header[STATE_MOMENTS_AT] = (int32_t)moments->type;
  put(header, STATE_PLANNED_AT, state->planned);
  header[STATE_OPTIMIZER_AT] = (int32_t)model->optimizer;
  header[STATE_HEADER_CRC_AT] = (int32_t)file_header_checksum(header, STATE_HEADER_CRC_AT);
  file_writer_write(writer, header, HEADER_BYTES);
  file_writer_write(writer, state->outliers.losses, WINDOW_BYTES);
  file_writer_write(writer, state->outliers.norms, WINDOW_BYTES);
  file_writer_write(writer, moments->m, model->m_bytes);
  file_writer_write(writer, moments->v, model->v_bytes);
}

static void check_header(const char *path, const int32_t *header) {
  const int32_t version = header[STATE_VERSION_AT];
  if (header[STATE_MAGIC_AT] != STATE_MAGIC) {
    die(EXIT_BAD_DATA, "%s is not a training state that this llmc knows; delete its folder to go on from the "
        "checkpoint before it", path);
  }
  if (version != STATE_VERSION && version != STATE_VERSION_BARE) {
    die(EXIT_BAD_DATA, "%s is a training state of version %d, and this llmc goes on with version %d; go on with the "
        "llmc that wrote it, or start a new run from the weights beside it", path, version, STATE_VERSION);
  }
  const uint32_t crc = file_header_checksum(header, STATE_HEADER_CRC_AT), told = (uint32_t)header[STATE_HEADER_CRC_AT];
  const int32_t moments = header[STATE_MOMENTS_AT], optimizer = header[STATE_OPTIMIZER_AT];
  if (told != (version == STATE_VERSION ? crc : 0)) {
    die(EXIT_BAD_DATA, "%s is damaged: its header has checksum %08x and says %08x; delete its folder to go on from "
        "the checkpoint before it", path, crc, told);
  }
  if (moments < MOMENTS_FP32 || moments > MOMENTS_8BIT) {
    die(EXIT_BAD_DATA, "%s has moments of a type that this llmc does not know (%d); go on with the llmc that wrote it, or "
        "delete its folder to go on from the checkpoint before it", path, moments);
  }
  if (optimizer < ADAMW || optimizer > MUON) {
    die(EXIT_BAD_DATA, "%s is the state of an optimizer that this llmc does not know (%d); go on with the llmc that wrote "
        "it, or delete its folder to go on from the checkpoint before it", path, optimizer);
  }
}

int state_open(const char *path, struct State *state, const struct Config *config) {
  uint64_t size;
  const int file = file_open(path, "llmc train", &size);
  int32_t header[HEADER_INTS] = {0};
  if (size >= HEADER_BYTES) file_read(file, path, header, HEADER_BYTES, 0);
  check_header(path, header);
  const int32_t moments = header[STATE_MOMENTS_AT];
  const enum Optimizer optimizer = (enum Optimizer)header[STATE_OPTIMIZER_AT];
  const uint64_t expected = state_bytes(config, (enum MomentsType)moments, optimizer);
  if (size != expected) {
    die(EXIT_BAD_DATA, "%s is %s: it should have %llu bytes, it has %llu; delete its folder to go on from the "
        "checkpoint before it", path, size < expected ? "cut short" : "damaged", (unsigned long long)expected,
        (unsigned long long)size);
  }
  *state = (struct State){
      .step = get(header, STATE_STEP_AT), .metrics_bytes = get(header, STATE_METRICS_AT),
      .draws = get(header, STATE_DRAWS_AT), .seed = get(header, STATE_SEED_AT),
      .seq_len = get(header, STATE_SEQ_LEN_AT), .update_tokens = get(header, STATE_UPDATE_TOKENS_AT),
      .shuffle = (header[STATE_FLAGS_AT] & STATE_SHUFFLED) != 0, .told = (header[STATE_FLAGS_AT] & STATE_TOLD) != 0,
      .whole = (header[STATE_FLAGS_AT] & STATE_WHOLE) != 0,
      .aligned = (header[STATE_FLAGS_AT] & STATE_ALIGNED) != 0};
  state->optimizer = optimizer, state->moments = (enum MomentsType)moments;
  state->best_val_loss = get_double(header, STATE_BEST_AT);
  state->seconds = get_double(header, STATE_SECONDS_AT);
  state->patience = (struct Patience){get_double(header, STATE_TO_BEAT_AT), get(header, STATE_WAITED_AT)};
  state->skipped = get(header, STATE_SKIPPED_AT);
  state->planned = get(header, STATE_PLANNED_AT);
  state->outliers.count = get(header, STATE_JUDGED_AT);
  return file;
}

enum { PIECE = 64 * MOMENTS_BLOCK };  // numbers that are converted at a time

/* Reads n numbers of m and v, stored from these bytes of the file on, into `to`; without v where to.v is NULL. */
static void convert(int file, const char *path, size_t m_at, size_t v_at, enum MomentsType stored, struct Moments to,
                    size_t n, uint64_t key) {
  static float m_raw[PIECE], v_raw[PIECE], none[MOMENTS_BLOCK];  // as stored, in at most 4 bytes a number
  float m[MOMENTS_BLOCK], v[MOMENTS_BLOCK];
  for (size_t first = 0; first < n; first += PIECE) {
    const size_t count = size_min(PIECE, n - first), from = moments_bytes(stored, first);
    file_read(file, path, m_raw, moments_bytes(stored, count), m_at + from);
    if (to.v != NULL) file_read(file, path, v_raw, moments_bytes(stored, count), v_at + from);
    const struct Moments raw = {stored, (char *)m_raw, (char *)v_raw};
    for (size_t i = 0; i < count; i += MOMENTS_BLOCK) {
      const size_t some = size_min(MOMENTS_BLOCK, count - i);
      const size_t at = moments_bytes(to.type, first + i);
      const struct Moments part = {to.type, to.m + at, to.v != NULL ? to.v + at : (char *)none};
      moments_load(m, v, moments_at(raw, i), some);
      moments_store(part, m, v, key, first + i, some);
    }
  }
}

static void convert_all(int file, const char *path, enum MomentsType stored, const struct Gpt2 *model, uint64_t key) {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  gpt2_tensors(&model->config, tensors);
  const enum MomentsType type = model->moments.type;
  size_t m_at = MOMENTS_AT, v_at = MOMENTS_AT + gpt2_m_bytes(&model->config, stored), m_to = 0, v_to = 0;
  for (const struct Tensor *tensor = tensors; tensor < tensors + GPT2_TENSOR_COUNT; tensor++) {
    const size_t n = size_product(tensor->rows, tensor->columns);
    const bool has_v = !optimizer_is_muon(model->optimizer, tensor);
    for (size_t l = 0; l < (tensor->place == BLOCK ? model->config.L : 1); l++) {
      const struct Moments moments = {type, model->moments.m + m_to, has_v ? model->moments.v + v_to : NULL};
      convert(file, path, m_at, v_at, stored, moments, n, mix64(key + m_to));
      m_at += moments_bytes(stored, n), m_to += moments_bytes(type, n);
      if (has_v) v_at += moments_bytes(stored, n), v_to += moments_bytes(type, n);
    }
  }
}

/* Of the moments as the file has them, m and v together so many bytes. */
static uint32_t stored_checksum(int file, const char *path, uint32_t crc, size_t bytes) {
  static char piece[PIECE];
  for (size_t at = 0; at < bytes; at += PIECE) {
    const size_t some = size_min(PIECE, bytes - at);
    file_read(file, path, piece, some, MOMENTS_AT + at);
    crc = crc32_update(crc, piece, some);
  }
  return crc;
}

void state_read(int file, const char *path, enum MomentsType stored, struct Outliers *outliers,
                const struct Gpt2 *model, uint64_t key) {
  int32_t header[HEADER_INTS];
  const struct Moments *moments = &model->moments;
  file_read(file, path, header, HEADER_BYTES, 0);
  file_read(file, path, outliers->losses, WINDOW_BYTES, HEADER_BYTES);
  file_read(file, path, outliers->norms, WINDOW_BYTES, HEADER_BYTES + WINDOW_BYTES);
  uint32_t crc = windows_checksum(outliers);
  if (stored == moments->type) {
    file_read(file, path, moments->m, model->m_bytes, MOMENTS_AT);
    file_read(file, path, moments->v, model->v_bytes, MOMENTS_AT + model->m_bytes);
    crc = crc32_update(crc32_update(crc, moments->m, model->m_bytes), moments->v, model->v_bytes);
  } else {
    crc = stored_checksum(file, path, crc, state_bytes(&model->config, stored, model->optimizer) - MOMENTS_AT);
    convert_all(file, path, stored, model, key);
  }
  close(file);
  if (crc != (uint32_t)header[STATE_CRC_AT]) {
    die(EXIT_BAD_DATA, "%s is damaged: its checksum is %08x, its header says %08x; delete its folder to go on from "
        "the checkpoint before it", path, crc, (uint32_t)header[STATE_CRC_AT]);
  }
}
