/* The table of one instruction set, from the templates included before this one. */

/* Two packed blocks of A; sums of squares borrow the place for their parts, which are doubles, and decoding
 * for rows of its input. */
static size_t shared_floats(size_t largest) {
  size_t block = size_min(MC, round_up(largest, MR)) * size_min(KC, largest);
#if TILES
  block = size_max(block, tiled_block_floats());
#elif SME
  block = size_max(block, sme_block_floats(largest));
#endif
  const size_t decoded = size_max(decode_row_floats(largest), INT8_ROWS * int8_row_floats(largest));
  return size_max(size_max(2 * block, 2 * SQUARES_PARTS), decoded);
}

static size_t own_floats(size_t T, size_t HS) {
  size_t attention = size_max(attention_forward_floats(T, HS), attention_backward_floats(T, HS));
  size_t most = size_max(attention, cached_floats(T, HS));
#if TILES
  most = size_max(most, tiled_own_floats());
  most = size_max(most, size_max(attention_tiles_forward_floats(T, HS), attention_tiles_backward_floats(T, HS)));
#elif SME
  most = size_max(most, sme_own_floats());
#elif BLAS
  most = size_max(most, blas_own_floats());
#endif
  return round_up(size_max((size_t)NR * KC, most), 16);
}

extern const struct Kernels ISA_TABLE;
const struct Kernels ISA_TABLE = {
    .name = ISA_NAME,
    .multiplies_bf16 = PAIRS || TILES > 0,
    .logits_rows = TILES > 0 ? 1024 : 0,
    .shared_floats = shared_floats,
    .own_floats = own_floats,
    .encoder_forward = encoder_forward,
    .encoder_backward = encoder_backward,
    .layernorm_forward = layernorm_forward,
    .layernorm_backward = layernorm_backward,
    .linear_forward = linear_forward,
    .linear_residual = linear_residual,
    .linear_gelu = linear_gelu,
    .linear_backward_input = linear_backward_input,
    .linear_backward_gelu = linear_backward_gelu,
    .linear_backward_weight = linear_backward_weight,
    .linear_symmetric = linear_symmetric,
    .dropout = dropout,
    .decode_linear = decode_linear,
    .prompt_linear = prompt_linear,
    .weights_store = weights_store,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_prompt = attention_prompt,
    .attention_forward_cached = attention_forward_cached,
    .crossentropy = crossentropy,
    .row_largest = row_largest,
    .row_exponentials = row_exponentials,
    .sum_squares = sum_squares,
    .adamw_update = adamw_update,
    .peak_flops = peak_flops,
};
