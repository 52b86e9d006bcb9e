/* Model checkpoints, as format.h describes them. */
#ifndef LLMC_CHECKPOINT_H
#define LLMC_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "files/file.h"
#include "model/gpt2.h"

/* What a header says. */
struct Checkpoint {
  struct Config config;
  int version;
  bool extended;                 // llmc's extension is there, and with it the checksum
  uint32_t crc;
  uint32_t step;                 // training step the weights were saved at
  bool has_val_loss, has_tokenizer;
  float val_loss;
  unsigned char tokenizer[32];   // SHA-256 fingerprint
};

/* Opens a checkpoint and checks its header against its size; returns the file descriptor. Dies with
 * EXIT_MISSING or EXIT_BAD_DATA. */
int checkpoint_open(const char *path, struct Checkpoint *checkpoint);

/* Consecutive rows of a tensor. If every block has one, the rows are numbered through all blocks. */
struct CheckpointRows {
  size_t tensor, first, count, columns;
};

/* Where a checkpoint's rows go, as many at a time as `room` floats hold, or one. */
struct CheckpointSink {
  void *context;
  size_t room;
  float *(*place)(void *context, const struct CheckpointRows *rows);  // where to put them
  void (*done)(void *context, const struct CheckpointRows *rows);     // they are there; may be NULL
};

/* Reads the payload row by row, rows that pad wte included, verifies the checksum and closes the file. */
void checkpoint_read_rows(int file, const char *path, const struct Checkpoint *checkpoint,
                          const struct CheckpointSink *sink);

/* Reads the payload into params (gpt2_count floats), verifies the checksum and closes the file. */
void checkpoint_read(int file, const char *path, const struct Checkpoint *checkpoint, float *params);

/* Bytes of a version 3 file. */
size_t checkpoint_bytes(const struct Config *config);

/* Writes version 3 beside `path`; file_writer_commit puts it in place. Where the disk refuses, the file that was there
 * is untouched: see file_writer_write. */
void checkpoint_write(struct FileWriter *writer, const char *path, const struct Checkpoint *checkpoint,
                      const float *params);

#endif
