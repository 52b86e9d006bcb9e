/* How work is shared out: with any number of threads every piece of it is claimed once, and of GPT-2 124M's operations
 * the busiest thread has little more than its share. Counts pieces, measures no time. */
#include "kernels/claims.h"

#include "kernels/moments.h"
#include "tests/check.h"

/* The tables' tiles: AVX-512, AVX2, NEON, 128 bits, AMX. */
static const struct Tiling tilings[] = {
    {8, 48, 1024, 1024, 2}, {6, 16, 1020, 768, 1}, {8, 12, 1024, 512, 2}, {4, 8, 1024, 256, 1}, {32, 32, 0, 0, 32}};
enum { TILINGS = sizeof tilings / sizeof *tilings, TILES = TILINGS - 1 };
static const size_t strip_widths[] = {48, 16, 12, 8, 32}, hands[] = {128, 126, 128, 128, 128};

/* What each thread has got so far: a claim goes to the one that has least. */
struct Load {
  size_t of[POOL_MAX_THREADS], threads, all;
};

static void load_add(struct Load *load, size_t work) {
  size_t least = 0;
  for (size_t t = 1; t < load->threads; t++) least = load->of[t] < load->of[least] ? t : least;
  load->of[least] += work, load->all += work;
}

/* Nobody goes on before the busiest is done. */
static size_t load_busiest(struct Load *load) {
  size_t most = 0;
  for (size_t t = 0; t < load->threads; t++) most = size_max(most, load->of[t]), load->of[t] = 0;
  return most;
}

/* What one thread would have to do, of what the busiest of all has to do. */
static void check_share(double work, size_t busiest, size_t threads, double least, const char *what, const char *of) {
  const double share = work / ((double)busiest * (double)threads);
  check(share >= least, "%s of %s, %zu threads: expected the busiest to have at most 1 / %.2f of its share, got 1 / %.2f",
        what, of, threads, least, share);
}

/* ---- products ------------------------------------------------------------------------------------ */

static unsigned char painted[1 << 21];

/* `rows`: those of the batch. */
static struct ProductClaims claims_of(size_t M, size_t N, size_t K, size_t threads, struct Tiling t, size_t parts, bool rows) {
  return t.depth > 0 ? product_claims(M, N, K, threads, t, rows) : tiled_claims(M, N, K, threads, parts, false, rows);
}

/* Claims every block; returns the tiles of the busiest thread, and in `all` those of all. */
static size_t claim_product(size_t M, size_t N, size_t K, size_t threads, struct Tiling t, size_t parts, bool of_batch,
                            size_t *all) {
  const struct ProductClaims c = claims_of(M, N, K, threads, t, parts, of_batch);
  const size_t across = ceil_div(N, t.columns);
  struct Load load = {.threads = threads};
  size_t busiest = 0;
  check(c.rows % t.rows == 0 && c.depth % t.grain == 0 && ceil_div(M, c.rows) * ceil_div(K, c.depth) > 0,
        "%zu x %zu x %zu: blocks of %zu rows by %zu", M, N, K, c.rows, c.depth);
  for (size_t m = 0; m < M; m += c.rows) {
    const size_t height = size_min(c.rows, M - m);
    memset(painted, 0, ceil_div(height, t.rows) * across);
    for (size_t claim = 0; claim < product_claims_of_block(&c); claim++) {
      struct Span rows, columns;
      product_claimed(&c, claim, height, N, &rows, &columns);
      if (rows.begin == rows.end) continue;
      for (size_t i = rows.begin; i < rows.end; i += t.rows) {
        for (size_t j = columns.begin; j < columns.end; j += t.columns) painted[i / t.rows * across + j / t.columns]++;
      }
      load_add(&load, ceil_div(rows.end - rows.begin, t.rows) * ceil_div(columns.end - columns.begin, t.columns));
    }
    for (size_t i = 0; i < ceil_div(height, t.rows) * across; i++) {
      check(painted[i] == 1, "product %zu x %zu x %zu, %zu threads: tile %zu of the block at row %zu is claimed %d times",
            M, N, K, threads, i, m, painted[i]);
    }
    busiest += load_busiest(&load);
  }
  *all = load.all;
  return busiest;
}

/* Each number of a block of a factor is packed once. Returns the numbers of the busiest thread, in whole panels. */
static size_t pack_block(size_t lanes, size_t depth, size_t threads, struct Tiling t, bool whole) {
  const struct PackClaims c = pack_claims(lanes, depth, threads, t, whole, t.depth == 0);
  const size_t panels = ceil_div(lanes, t.rows);
  size_t busiest = 0;
  memset(painted, 0, panels * depth);
  for (size_t thread = 0; thread < threads; thread++) {
    struct Span share = pack_share(&c, (int)thread, (int)threads), run, numbers;
    size_t work = 0;
    while (pack_claimed(&c, &share, &run, &numbers)) {
      check(numbers.begin % c.grain == 0 && run.end <= panels && numbers.end <= depth, "packing %zu lanes of %zu, %zu threads: "
            "panels %zu to %zu, numbers %zu to %zu", lanes, depth, threads, run.begin, run.end, numbers.begin, numbers.end);
      for (size_t panel = run.begin; panel < run.end; panel++) {
        for (size_t k = numbers.begin; k < numbers.end; k++) painted[panel * depth + k]++, work++;
      }
    }
    busiest = size_max(busiest, work);
  }
  for (size_t i = 0; i < panels * depth; i++) {
    check(painted[i] == 1, "packing %zu lanes of %zu, %zu threads: number %zu is packed %d times", lanes, depth, threads, i,
          painted[i]);
  }
  return busiest;
}

static void check_products(size_t threads) {
  static const size_t sizes[][3] = {{1, 1, 1}, {7, 50, 1037}, {257, 97, 31}, {1025, 17, 9}, {2065, 485, 300}, {31, 1500, 770}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (size_t t = 0; t < TILINGS; t++) {
      size_t all;
      claim_product(sizes[i][0], sizes[i][1], sizes[i][2], threads, tilings[t], 1, false, &all);
      claim_product(sizes[i][0], sizes[i][1], sizes[i][2], threads, tilings[t], 1, true, &all);
      if (tilings[t].depth == 0) claim_product(sizes[i][0], sizes[i][1], sizes[i][2], threads, tilings[t], 3, false, &all);
      pack_block(size_min(sizes[i][0], 999), size_min(sizes[i][2], 500), threads, tilings[t], i % 2 == 0);
    }
  }
}

/* The products of a step with M rows, forward and backward. */
static void check_gpt2_products(size_t M, size_t threads, const char *of) {
  enum { C = 768, VP = 50304, ROWS = 256 };
  const size_t shapes[][3] = {
      {M, 3 * C, C}, {M, C, C}, {M, 4 * C, C}, {M, C, 4 * C}, {ROWS, VP, C},          // forward
      {M, C, 3 * C}, {M, 4 * C, C}, {ROWS, C, VP},                                   // backward of the inputs
      {3 * C, C, M}, {C, C, M}, {4 * C, C, M}, {C, 4 * C, M}, {VP, C, ROWS},         // of the weights
  };
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    for (size_t t = 0; t < TILINGS; t++) {
      char what[64];
      size_t all, busiest = claim_product(shapes[i][0], shapes[i][1], shapes[i][2], threads, tilings[t], 1, i < 8, &all);
      snprintf(what, sizeof what, "product %zu x %zu x %zu", shapes[i][0], shapes[i][1], shapes[i][2]);
      check_share((double)all, busiest, threads, tilings[t].depth > 0 ? 0.88 : 0.7, what, of);
      const size_t lanes = size_min(shapes[i][0], 768), depth = size_min(shapes[i][2], 1024);
      for (int whole = 0; whole < 2; whole++) {
        const size_t panels = ceil_div(lanes, tilings[t].rows);
        snprintf(what, sizeof what, "packing %zu lanes of %zu%s", lanes, depth, whole ? ", summed" : "");
        if (whole && panels < threads) continue;  // no more than 1 / panels
        const size_t busiest_packs = pack_block(lanes, depth, threads, tilings[t], whole);
        check_share((double)(panels * depth), busiest_packs, threads, 0.66, what, of);
      }
    }
  }
}

/* Where rows are those of the batch, each of two threads has its own of them in the products of a small model, so that it
 * finds in its cache what the operation before made of them. On tiles each of more threads has too: they pack no column
 * twice for it. */
static void check_rows_of_batch(size_t C, size_t threads) {
  enum { M = 2048 };
  const size_t shapes[][2] = {{3 * C, C}, {C, C}, {4 * C, C}, {C, 4 * C}, {C, 3 * C}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    for (size_t t = threads > 2 ? TILES : 0; t < TILINGS; t++) {
      const struct ProductClaims c = claims_of(M, shapes[i][0], shapes[i][1], threads, tilings[t], 1, true);
      const size_t count = product_claims_of_block(&c), height = size_min(M, c.rows);
      size_t near = 0;  // results that a thread begins with, in rows of its own
      for (size_t thread = 0; thread < threads; thread++) {
        const struct Near begins = product_near(&c, NULL, 0, (int)thread, (int)threads);
        const struct Span own = span_part(count, 1, (size_t)begins.thread, (size_t)begins.threads);
        const struct Span its = span_part(height, 1, thread, threads);
        for (size_t claim = own.begin; begins.threads > 1 && claim < own.end; claim++) {
          struct Span rows, columns;
          product_claimed(&c, claim, height, shapes[i][0], &rows, &columns);
          const size_t begin = size_max(rows.begin, its.begin), end = size_min(rows.end, its.end);
          near += (end > begin ? end - begin : 0) * (columns.end - columns.begin);
        }
      }
      check((double)near >= 0.85 * (double)(height * shapes[i][0]), "product %d x %zu x %zu, table %zu: of %zu threads each begins "
            "with its own rows in %.2f of the result", M, shapes[i][0], shapes[i][1], t, threads,
            (double)near / (double)(height * shapes[i][0]));
      check(tilings[t].depth > 0 || c.together, "product %d x %zu x %zu, %zu threads: tiles pack columns %zu times", M,
            shapes[i][0], shapes[i][1], threads, c.pieces);
    }
  }
}

/* ---- attention ----------------------------------------------------------------------------------- */

/* Work is counted in keys that a query sees: forward for two products, backward for five, or seven where both are made
 * twice. Returns the busiest thread's, and in `all` that of one thread. */
static size_t claim_attention(size_t heads, size_t T, size_t width, size_t hand, size_t threads, bool backward,
                              size_t *all) {
  const size_t strips = ceil_div(T, width), tiles = ceil_div(T, hand), each = strips + tiles;
  const struct AttentionClaims c = backward ? attention_backward_claims(heads, strips, tiles, threads)
                                            : attention_forward_claims(heads, strips, threads);
  struct Load load = {.threads = threads};
  memset(painted, 0, heads * each);
  *all = 0;
  for (size_t i = 0; i < attention_claims_all(&c); i++) {
    const struct AttentionClaim claim = attention_claimed(&c, i, backward);
    unsigned char *head = painted + claim.head * each;
    size_t work = 0;
    if (!backward) {
      for (size_t s = claim.part; s < strips; s += c.key_parts) {
        head[s]++, work += 2 * size_min(T, (s + 1) * width);
        check(size_min(T, (s + 1) * width) <= attention_seen(&c, claim, T, width), "strip %zu sees keys past the packed ones", s);
      }
      *all += work;
    } else {
      const struct AttentionShare share = attention_share(&c, claim, width);
      for (size_t s = share.first / width; share.keys && s < strips; s += share.strips) head[s]++;
      for (size_t q0 = 0; q0 < T; q0 += hand) {
        if (!share_sees(&share, q0, hand)) continue;
        if (share.queries) head[strips + q0 / hand]++;
        for (size_t k0 = share.first; k0 < size_min(T, q0 + hand); k0 += share.strips * width) {
          check(k0 < share_end(&share, T, hand), "the keys at %zu are left out for the queries at %zu", k0, q0);
          work += 2 + (share.keys ? 2 : 0) + (share.queries ? 1 : 0);
        }
      }
      for (size_t k0 = share.first; share.keys && k0 < T; k0 += share.strips * width) {
        *all += 5 * (tiles - k0 / hand);
      }
    }
    load_add(&load, work);
  }
  for (size_t i = 0; i < heads * each; i++) {
    const bool counts = backward || i % each < strips;
    check(painted[i] == counts, "attention of %zu heads, T %zu, %zu threads, %s: part %zu is claimed %d times", heads, T,
          threads, backward ? "backward" : "forward", i, painted[i]);
  }
  return load_busiest(&load);
}

static void check_attention(size_t heads, size_t T, size_t threads, double least, const char *of) {
  for (size_t t = 0; t < TILINGS; t++) {
    for (int backward = 0; backward < 2; backward++) {
      size_t all;
      const size_t busiest = claim_attention(heads, T, strip_widths[t], hands[t], threads, backward, &all);
      if (of == NULL) continue;
      /* Backward's seven products in place of five, where heads are few, are no waste that more threads add to. */
      check_share((double)all, busiest, threads, backward ? least * 5 / 7 : least, backward ? "attention backward" : "attention", of);
    }
  }
}

/* ---- rows and the update ------------------------------------------------------------------------- */

/* `count` items in grains, a part for each thread. */
static size_t claim_parts(size_t count, size_t grain, size_t threads, const char *what) {
  size_t busiest = 0, next = 0;
  for (size_t thread = 0; thread < threads; thread++) {
    const struct Span mine = span_part(count, grain, thread, threads);
    check(mine.begin == next && mine.end >= mine.begin, "%s of %zu, %zu threads: thread %zu begins at %zu, not %zu", what,
          count, threads, thread, mine.begin, next);
    next = mine.end, busiest = size_max(busiest, mine.end - mine.begin);
  }
  check(next == count, "%s of %zu, %zu threads: %zu claimed", what, count, threads, next);
  return busiest;
}

/* Tokens as text has them: of 1,000, the n-th most frequent 1 / n as often as the first. */
static size_t token_at(size_t n) {
  const double at = (double)(mix64(n + 1) >> 11) * 0x1p-53;
  return (size_t)exp(at * log(1000));
}

static size_t claim_embeddings(size_t N, size_t T, size_t C, size_t threads, size_t *all) {
  const struct EmbeddingClaims c = embedding_claims(C, threads);
  size_t busiest = 0;
  memset(painted, 0, 2 * N * C);
  *all = 2 * N * C;
  for (size_t thread = 0; thread < threads; thread++) {
    struct Span mine = span_part(c.lines * c.classes, 1, thread, threads), columns;
    size_t work = 0;
    while (mine.begin < mine.end) {
      const size_t class = embedding_claimed(&c, &mine, C, &columns);
      for (size_t i = 0; i < 2 * N; i++) {
        if ((i < N ? token_at(i) : i % N % T) % c.classes != class) continue;
        for (size_t column = columns.begin; column < columns.end; column++) painted[i * C + column]++;
        work += columns.end - columns.begin;
      }
    }
    busiest = size_max(busiest, work);
  }
  for (size_t i = 0; i < 2 * N * C; i++) {
    check(painted[i] == 1, "embeddings of %zu rows of %zu, %zu threads: number %zu is added %d times", N, C, threads, i, painted[i]);
  }
  return busiest;
}

static void check_rows(size_t threads) {
  size_t all;
  static const size_t counts[] = {1, 3, 16, 41, 256, 1000};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    claim_parts(counts[i], 1, threads, "rows"), claim_parts(counts[i], SUMMED_COLUMNS, threads, "columns");
    claim_parts(counts[i] * 77, MOMENTS_BLOCK, threads, "moments");
  }
  claim_parts(SQUARES_PARTS, 1, threads, "parts of the update");
  claim_embeddings(23, 7, 40, threads, &all), claim_embeddings(5, 5, 1, threads, &all);
}

static void check_gpt2_rows(size_t N, size_t T, size_t threads, const char *of) {
  enum { C = 768, PARAMETERS = 124475904 };
  size_t all;
  check_share((double)N, claim_parts(N, 1, threads, "rows"), threads, 0.95, "rows of layernorm and cross-entropy", of);
  check_share(C, claim_parts(C, SUMMED_COLUMNS, threads, "columns"), threads, 0.95, "columns of layernorm backward", of);
  check_share(SQUARES_PARTS, claim_parts(SQUARES_PARTS, 1, threads, "parts"), threads, 0.95, "parts of AdamW", of);
  const size_t part = claim_parts(PARAMETERS, MOMENTS_BLOCK, SQUARES_PARTS, "numbers of AdamW");
  check_share(PARAMETERS, part, SQUARES_PARTS, 0.95, "numbers of a part of AdamW", of);
  const size_t busiest = claim_embeddings(N, T, C, threads, &all);
  check_share((double)all, busiest, threads, 0.6, "gradient of the embeddings", of);
}

int main(void) {
  for (size_t threads = 1; threads <= POOL_MAX_THREADS; threads++) {
    check_products(threads);
    check_rows(threads);
    check_attention(1, 1, threads, 0, NULL), check_attention(3, 37, threads, 0, NULL);
    check_attention(5, 300, threads, 0, NULL), check_attention(12, 1024, threads, 0, NULL);
  }
  for (size_t threads = 2; threads <= 8; threads *= 2) check_rows_of_batch(96, threads), check_rows_of_batch(128, threads);
  for (size_t threads = 1; threads <= 64; threads *= 2) {
    check_gpt2_products(256, threads, "B=4 T=64"), check_gpt2_products(1024, threads, "B=1 T=1024");
    check_attention(48, 64, threads, 0.7, "B=4 T=64"), check_attention(12, 1024, threads, 0.7, "B=1 T=1024");
    check_gpt2_rows(256, 64, threads, "B=4 T=64"), check_gpt2_rows(1024, 1024, threads, "B=1 T=1024");
  }
  return check_done("test_claims");
}
