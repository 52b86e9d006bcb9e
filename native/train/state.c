#include "train/state.h"

#include <string.h>

#include "base/disk.h"
#include "base/util.h"
#include "files/format.h"
#include "model/pieces.h"

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

/* Where moments are written, and the checksum of what was. */
struct Written {
  struct FileWriter *writer;
  uint32_t crc;
};

static void write_moments(void *context, const void *bytes, size_t count) {
  struct Written *written = context;
  file_writer_write(written->writer, bytes, count);
  written->crc = crc32_update(written->crc, bytes, count);
}

void state_write(struct FileWriter *writer, const struct State *state, const struct Gpt2 *model, struct Team *team) {
  int32_t header[HEADER_INTS] = {0};
  file_writer_write(writer, header, HEADER_BYTES);
  file_writer_write(writer, state->outliers.losses, WINDOW_BYTES);
  file_writer_write(writer, state->outliers.norms, WINDOW_BYTES);
  struct Written written = {writer, windows_checksum(&state->outliers)};
  team_collect(team, model, write_moments, &written);

  header[STATE_MAGIC_AT] = STATE_MAGIC;
  header[STATE_VERSION_AT] = team->shares == 1 ? STATE_VERSION : STATE_VERSION_SHARES;
  header[STATE_CRC_AT] = (int32_t)written.crc;
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
  header[STATE_MOMENTS_AT] = (int32_t)model->moments.type;
  put(header, STATE_PLANNED_AT, state->planned);
  header[STATE_OPTIMIZER_AT] = (int32_t)model->optimizer;
  header[STATE_SHARES_AT] = team->shares == 1 ? 0 : (int32_t)team->shares;
  header[STATE_HEADER_CRC_AT] = (int32_t)file_header_checksum(header, STATE_HEADER_CRC_AT);
  file_writer_write_front(writer, header, HEADER_BYTES);
}

static void check_header(const char *path, const int32_t *header) {
  const int32_t version = header[STATE_VERSION_AT];
  if (header[STATE_MAGIC_AT] != STATE_MAGIC) {
    die(EXIT_BAD_DATA, "%s is not a training state that this llmc knows; delete its folder to go on from the "
        "checkpoint before it", path);
  }
  if (version < STATE_VERSION_BARE || version > STATE_VERSION_SHARES) {
    die(EXIT_BAD_DATA, "%s is a training state of version %d, and this llmc goes on with version %d; go on with the "
        "llmc that wrote it, or start a new run from the weights beside it", path, version, STATE_VERSION_SHARES);
  }
  const uint32_t crc = file_header_checksum(header, STATE_HEADER_CRC_AT), told = (uint32_t)header[STATE_HEADER_CRC_AT];
  const int32_t moments = header[STATE_MOMENTS_AT], optimizer = header[STATE_OPTIMIZER_AT];
  if (told != (version == STATE_VERSION_BARE ? 0 : crc)) {
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
  state->shares = (size_t)size_max((uint32_t)header[STATE_SHARES_AT], 1);
  state->outliers.count = get(header, STATE_JUDGED_AT);
  return file;
}

/* ---- reading moments ------------------------------------------------------------------------------ */

/* The file, or rank 0's file for another rank. */
struct Source {
  int file;
  const char *path;
  const struct Ranks *ranks;  // NULL: the file itself
};

/* What a rank wants of the file; nothing: it has all. */
struct Want {
  uint64_t count, offset;
};

enum { ROOM = 1 << 20 };  // bytes in a message
static char room[ROOM];

static void read_source(const struct Source *source, void *bytes, size_t count, uint64_t offset) {
  if (source->ranks == NULL) {
    file_read(source->file, source->path, bytes, count, offset);
    return;
  }
  for (size_t at = 0; at < count; at += ROOM) {
    const struct Want want = {size_min(ROOM, count - at), offset + at};
    ranks_send(source->ranks, 0, &want, sizeof want);
    ranks_receive(source->ranks, 0, (char *)bytes + at, want.count);
  }
}

/* Gives a rank what it wants of the file. */
static void serve(const struct Ranks *ranks, int rank, int file, const char *path) {
  for (struct Want want;;) {
    ranks_receive(ranks, rank, &want, sizeof want);
    if (want.count == 0) return;
    file_read(file, path, room, want.count, want.offset);
    ranks_send(ranks, rank, room, want.count);
  }
}

enum { PART = 64 * MOMENTS_BLOCK };  // numbers that are converted at a time

/* Reads a piece's m and v, stored from these bytes on, into `to`; without v where to.v is NULL. */
static void convert(const struct Source *source, uint64_t m_at, uint64_t v_at, enum MomentsType stored, struct Moments to,
                    const struct Piece *piece, uint64_t key) {
  static float m_raw[PART], v_raw[PART], none[MOMENTS_BLOCK];  // as stored, in at most 4 bytes a number
  float m[MOMENTS_BLOCK], v[MOMENTS_BLOCK];
  for (size_t first = 0; first < piece->n; first += PART) {
    const size_t count = size_min(PART, piece->n - first), from = moments_bytes(stored, first);
    read_source(source, m_raw, moments_bytes(stored, count), m_at + from);
    if (to.v != NULL) read_source(source, v_raw, moments_bytes(stored, count), v_at + from);
    const struct Moments raw = {stored, (char *)m_raw, (char *)v_raw};
    for (size_t i = 0; i < count; i += MOMENTS_BLOCK) {
      const size_t some = size_min(MOMENTS_BLOCK, count - i);
      const size_t at = moments_bytes(to.type, first + i);
      const struct Moments part = {to.type, to.m + at, to.v != NULL ? to.v + at : (char *)none};
      moments_load(m, v, moments_at(raw, i), some);
      moments_store(part, m, v, key, piece->first + first + i, some);
    }
  }
}

/* The own moments, of a file in which m takes so many bytes. */
static void read_own(const struct Source *source, enum MomentsType stored, const struct Gpt2 *model, uint64_t key) {
  const struct Config *config = &model->config;
  const struct Moments *moments = &model->moments;
  const struct Border *own = model->own;
  const uint64_t m_at = MOMENTS_AT, v_at = m_at + gpt2_m_bytes(config, stored);
  if (stored == moments->type) {
    read_source(source, moments->m, own[1].m - own[0].m, m_at + own[0].m);
    read_source(source, moments->v, own[1].v - own[0].v, v_at + own[0].v);
    return;
  }
  struct Pieces pieces = pieces_of(config, moments->type, model->optimizer);
  struct Pieces in_file = pieces_of(config, stored, model->optimizer);
  for (struct Piece piece, from; pieces_next(&pieces, &piece) && pieces_next(&in_file, &from);) {
    if (piece.number < own[0].piece || piece.number >= own[1].piece) continue;
    const struct Moments to = {moments->type, moments->m + (piece.at.m - own[0].m),
                               piece.muon ? NULL : moments->v + (piece.at.v - own[0].v)};
    convert(source, m_at + from.at.m, v_at + from.at.v, stored, to, &piece, mix64(key + piece.tensor_m));
  }
}

void state_receive(const struct Ranks *ranks, enum MomentsType stored, const struct Gpt2 *model, uint64_t key) {
  const struct Want nothing = {0, 0};
  read_own(&(struct Source){.file = -1, .ranks = ranks}, stored, model, key);
  ranks_send(ranks, 0, &nothing, sizeof nothing);
}

/* Of the moments as the file has them, m and v together so many bytes. */
static uint32_t stored_checksum(int file, const char *path, uint32_t crc, size_t bytes) {
  for (size_t at = 0; at < bytes; at += ROOM) {
    const size_t some = size_min(ROOM, bytes - at);
    file_read(file, path, room, some, MOMENTS_AT + at);
    crc = crc32_update(crc, room, some);
  }
  return crc;
}

void state_read(int file, const char *path, enum MomentsType stored, struct Outliers *outliers,
                const struct Gpt2 *model, uint64_t key, const struct Ranks *ranks) {
  int32_t header[HEADER_INTS];
  const struct Moments *moments = &model->moments;
  file_read(file, path, header, HEADER_BYTES, 0);
  file_read(file, path, outliers->losses, WINDOW_BYTES, HEADER_BYTES);
  file_read(file, path, outliers->norms, WINDOW_BYTES, HEADER_BYTES + WINDOW_BYTES);
  uint32_t crc = windows_checksum(outliers);
  read_own(&(struct Source){.file = file, .path = path}, stored, model, key);
  for (int rank = 1; rank < ranks->count; rank++) serve(ranks, rank, file, path);
  if (stored == moments->type && ranks->count == 1) {
    crc = crc32_update(crc32_update(crc, moments->m, model->own[1].m), moments->v, model->own[1].v);
  } else {
    crc = stored_checksum(file, path, crc, state_bytes(&model->config, stored, model->optimizer) - MOMENTS_AT);
  }
  disk_close(file);
  if (crc != (uint32_t)header[STATE_CRC_AT]) {
    die(EXIT_BAD_DATA, "%s is damaged: its checksum is %08x, its header says %08x; delete its folder to go on from "
        "the checkpoint before it", path, crc, (uint32_t)header[STATE_CRC_AT]);
  }
}
