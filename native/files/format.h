/* Every file that the engine reads or writes. The readers in llmc/ follow this page; docs/reference/formats.md says the same
 * in tables, and a test compares the two.
 *
 * All little-endian. A file is a header of 256 int32 (1,024 bytes) and a payload; ints that are not
 * named here are zero. The layouts are llm.c's (github.com/karpathy/llm.c: llmc/dataloader.h,
 * train_gpt2.c), so that its files are read and its programs read ours.
 */
#ifndef LLMC_FORMAT_H
#define LLMC_FORMAT_H

enum { HEADER_INTS = 256, HEADER_BYTES = 4 * HEADER_INTS };

/* Token file (train.bin, val.bin). The size of the file must be exactly header + count * width.
 *   [0] magic   [1] version   [2] number of tokens (unsigned)   [3] 1: it has a mask, 0: it has none
 *   20240520, version 1: uint16 tokens;   20240801, version 7: uint32 tokens                       */
enum {
  TOKENS16_MAGIC = 20240520, TOKENS16_VERSION = 1,
  TOKENS32_MAGIC = 20240801, TOKENS32_VERSION = 7,
  TOKENS_MAGIC_AT = 0, TOKENS_VERSION_AT = 1, TOKENS_COUNT_AT = 2, TOKENS_MASK_AT = 3,
};

/* Mask of a token file (train.mask beside train.bin: .mask replaces .bin, or is added to another name). A byte
 * for each token says: 1 the loss counts where this token is predicted, 2 a conversation begins at it, 4 a turn
 * begins at it. Without a mask all tokens count. The size must be exactly header + count.
 *   [0] magic   [1] version 1   [2] number of tokens, the token file's (unsigned)   [3] CRC-32 of the payload */
enum {
  MASK_MAGIC = 20261128, MASK_VERSION = 1,
  MASK_MAGIC_AT = 0, MASK_VERSION_AT = 1, MASK_COUNT_AT = 2, MASK_CRC_AT = 3,
  MASK_COUNTS = 1, MASK_CONVERSATION = 2, MASK_TURN = 4,
};

/* Model checkpoint (model.bin). The payload is the tensors of gpt2.h, in that order, nothing between.
 *   [0] magic   [1] version   [2] maxT   [3] V   [4] L   [5] NH   [6] C   [7] Vp
 *   version 1: fp32, wte has V rows, [7] is unused;   version 3: fp32, wte has Vp rows, those from V
 *   on zero, Vp = V rounded up to 128;   version 5: as 3, every tensor bfloat16                     */
enum {
  MODEL_MAGIC = 20240326,
  MODEL_FP32_UNPADDED = 1, MODEL_FP32 = 3, MODEL_BF16 = 5,
  MODEL_MAGIC_AT = 0, MODEL_VERSION_AT = 1, MODEL_CONTEXT_AT = 2, MODEL_VOCAB_AT = 3,
  MODEL_LAYERS_AT = 4, MODEL_HEADS_AT = 5, MODEL_CHANNELS_AT = 6, MODEL_PADDED_VOCAB_AT = 7,
  VOCAB_MULTIPLE = 128,
};

/* llmc's extension of the model header, in ints that llm.c leaves zero and ignores. A file that has it
 * is verified on load; one without it (llm.c's own) still loads.
 *   [8]  magic: the bytes "LLMC"
 *   [9]  version of the extension: 2; version 1 is the same without [22]
 *   [10] CRC-32 of the payload (zlib's polynomial)
 *   [11] training step the weights were saved at (0: not trained)
 *   [12] flags: 1 = the tokenizer is known, 2 = the validation loss is known
 *   [13] validation loss, the bits of a float32
 *   [14] … [21] SHA-256 fingerprint of the tokenizer, its 32 bytes in order
 *   [22] CRC-32 of the header's 1,024 bytes, this int taken as 0                                    */
enum {
  EXT_MAGIC = 0x434D4C4C, EXT_VERSION = 2, EXT_VERSION_BARE = 1,
  EXT_MAGIC_AT = 8, EXT_VERSION_AT = 9, EXT_CRC_AT = 10, EXT_STEP_AT = 11, EXT_FLAGS_AT = 12,
  EXT_VAL_LOSS_AT = 13, EXT_TOKENIZER_AT = 14, EXT_TOKENIZER_BYTES = 32, EXT_HEADER_CRC_AT = 22,
  EXT_HAS_TOKENIZER = 1, EXT_HAS_VAL_LOSS = 2,
};

/* Training state (state.bin): with the checkpoint beside it, all that a run needs to go on. The payload is
 * the last 128 losses and the last 128 norms of the gradient that were judged, float64, number i of all at
 * i modulo 128, then the optimizer's two moments, m and v, each of the tensors in the order of a version 3
 * checkpoint, stored as [28] says (0 fp32, 1 bf16, 2 8bit): moments.h has the layouts. A tensor of every layer
 * begins a block anew. With Muon the matrices of the blocks have no v.
 *   [0] magic: the bytes "LLMS"   [1] version 3   [2] CRC-32 of the payload
 *   [3] flags: 1 = the data is shuffled, 2 = the step's validation and sample are in metrics.jsonl,
 *   4 = the windows cover the whole text, 8 = they are cut where documents begin
 *   two ints each, the lower half first: [4] updates made   [6] bytes of metrics.jsonl   [8] random numbers
 *   that samples used up   [10] seed   [12] T   [14] tokens in an update   [16] lowest validation loss of a
 *   checkpoint, a float64, infinity where there was none   [18] seconds trained, a float64   [20] validation
 *   loss that the next must be below, a float64   [22] validations since that one   [24] updates skipped
 *   [26] losses and norms ever judged   [28] how m and v are stored   [29] CRC-32 of the header's 1,024
 *   bytes, this int taken as 0. Version 2 is the same without [29].   [30] two ints: steps that a run of
 *   --max-time ends after, once they are known; else 0   [32] the optimizer: 0 AdamW, 1 Muon
 * Version 4 is the same with [33] shares in which the gradient of an update is added up, 2 or more  */
enum {
  STATE_MAGIC = 0x534D4C4C, STATE_VERSION_BARE = 2, STATE_VERSION = 3, STATE_VERSION_SHARES = 4,
  STATE_MAGIC_AT = 0, STATE_VERSION_AT = 1, STATE_CRC_AT = 2, STATE_FLAGS_AT = 3, STATE_STEP_AT = 4,
  STATE_METRICS_AT = 6, STATE_DRAWS_AT = 8, STATE_SEED_AT = 10, STATE_SEQ_LEN_AT = 12,
  STATE_UPDATE_TOKENS_AT = 14, STATE_BEST_AT = 16, STATE_SECONDS_AT = 18, STATE_TO_BEAT_AT = 20,
  STATE_WAITED_AT = 22, STATE_SKIPPED_AT = 24, STATE_JUDGED_AT = 26, STATE_MOMENTS_AT = 28,
  STATE_HEADER_CRC_AT = 29, STATE_PLANNED_AT = 30, STATE_OPTIMIZER_AT = 32, STATE_SHARES_AT = 33,
  STATE_SHUFFLED = 1, STATE_TOLD = 2, STATE_WHOLE = 4, STATE_ALIGNED = 8,
};

/* What one batch does (debug_state.bin), for comparison with another implementation.
 *   [0] magic   [1] version 2   [2] B   [3] T
 *   then tokens int32 (B, T), targets int32 (B, T), logits fp32 (B, T, V), loss fp32, and the gradients
 *   of the tensors of gpt2.h in order, wte with Vp rows                                             */
enum {
  DEBUG_MAGIC = 20240327, DEBUG_VERSION = 2,
  DEBUG_MAGIC_AT = 0, DEBUG_VERSION_AT = 1, DEBUG_BATCH_AT = 2, DEBUG_TIME_AT = 3,
};

/* Rows of a token file to evaluate (rows.bin). The size must be exactly header + count * 12 bytes.
 *   [0] magic   [1] version 1   [2] number of rows (unsigned)
 *   then for each row uint32 start, length, from: it is tokens start … start + length - 1 of the token file,
 *   of which those at from … length - 1 are predicted, each from all of the row before it;
 *   1 <= from < length. Rows may overlap and come in any order.                                     */
enum {
  ROWS_MAGIC = 20250917, ROWS_VERSION = 1,
  ROWS_MAGIC_AT = 0, ROWS_VERSION_AT = 1, ROWS_COUNT_AT = 2,
};

#endif
