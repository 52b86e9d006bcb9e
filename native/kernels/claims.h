/* Divides the work of an operation among threads. It computes with numbers only, so that a test can count what each
 * thread gets. It does not change a result: the order of every sum is fixed. */
#ifndef LLMC_CLAIMS_H
#define LLMC_CLAIMS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/pool.h"
#include "base/util.h"

/* Items begin … end - 1. */
struct Span {
  size_t begin, end;
};

static inline struct Span span_part(size_t count, size_t grain, size_t part, size_t parts) {
  struct Span span;
  pool_part(count, grain, (int)part, (int)parts, &span.begin, &span.end);
  return span;
}

/* Items of a region. A thread begins with its own part of them: it has worked on the same rows in the operation before, and
 * finds them in its cache. Then it takes items that other threads have left. */
struct Near {
  struct Pool *pool;
  size_t count, turn;           // items; how often as many of this region are done already
  int thread, threads, helped;  // helped: the threads whose parts were looked at
};

static inline bool near_next(struct Near *near, size_t *item) {
  for (; near->helped < near->threads; near->helped++) {
    const int owner = (near->thread + near->helped) % near->threads;
    const struct Span part = span_part(near->count, 1, (size_t)owner, (size_t)near->threads);
    const size_t each = part.end - part.begin, most = (near->turn + 1) * each;
    const size_t number = pool_claim_of(near->pool, owner, most);
    if (number == most) continue;
    *item = part.begin + number % each;
    return true;
  }
  return false;
}

/* ---- products ------------------------------------------------------------------------------------ */

/* What a table's products are made of. */
struct Tiling {
  size_t rows, columns;       // of a tile
  size_t block_rows, depth;   // of a packed block of A, at most: the rows a multiple of a tile's
  size_t grain;               // a block of K begins at a multiple of this
};

enum { CLAIM_PANELS = 4 };  // of columns, that a claim has at most

struct ProductClaims {
  struct Tiling tiling;
  size_t rows, depth;         // of a block of A, but for the last one
  size_t chunks, pieces;      // claims of a block: so many chunks of columns, by so many pieces of rows
  bool together;              // all threads pack B too, before they claim: on tiles alone
};

/* What the busiest thread has to do, in tiles: with each claim it packs as many columns, which takes as long as `packing`
 * tiles. */
static inline size_t product_busiest(size_t chunks, size_t pieces, size_t panels, size_t tall, size_t threads,
                                     size_t packing) {
  return ceil_div(chunks * pieces, threads) * ceil_div(panels, chunks) * (ceil_div(tall, pieces) + packing);
}

/* `rows` of the batch: those of A and of the result, which the operations before and after share out too. Each thread has a
 * piece of them, where that keeps it at most an eighth longer than `least`: what crosses from one core's cache to another's
 * costs more than a few tiles, most of all where the cores have no cache in common. */
static inline bool product_by_rows(struct ProductClaims *c, size_t panels, size_t tall, size_t threads, size_t packing,
                                   size_t least) {
  if (product_busiest(1, threads, panels, tall, threads, packing) > least + least / 8) return false;
  c->chunks = ceil_div(panels, CLAIM_PANELS), c->pieces = threads;
  return true;
}

/* Blocks of equal height and depth. Claims as many for every thread, whose widths differ by a panel at most, so that
 * none waits long for the others. Where the columns do not go round, a claim is a panel, and a part of the rows. `rows`: as
 * above, unless each thread would have to pack columns too often for that. */
static inline struct ProductClaims product_claims(size_t M, size_t N, size_t K, size_t threads, struct Tiling t, bool rows) {
  enum { PACKING = 3 };
  struct ProductClaims c = {.tiling = t,
                            .rows = round_up(ceil_div(M, ceil_div(M, t.block_rows)), t.rows),
                            .depth = round_up(ceil_div(K, ceil_div(K, t.depth)), t.grain)};
  const size_t panels = ceil_div(N, t.columns), tall = ceil_div(size_min(c.rows, M), t.rows);
  c.chunks = size_min(round_up(ceil_div(panels, CLAIM_PANELS), threads), panels);
  c.pieces = ceil_div(threads, c.chunks);
  size_t least = product_busiest(c.chunks, c.pieces, panels, tall, threads, PACKING);
  least -= least / 20;  // a narrow claim fetches nothing for the next one: it has to be worth it
  for (size_t pieces = 1; pieces <= tall; pieces++) {
    const size_t busiest = product_busiest(panels, pieces, panels, tall, threads, PACKING);
    if (busiest < least) least = busiest, c.chunks = panels, c.pieces = pieces;
  }
  if (rows && threads > 1) product_by_rows(&c, panels, tall, threads, PACKING, least);
  return c;
}

static inline size_t product_claims_of_block(const struct ProductClaims *c) { return c->chunks * c->pieces; }

/* The claims of a block, the block-th of the region. Where each thread has pieces of its own, it begins with them. */
static inline struct Near product_near(const struct ProductClaims *c, struct Pool *pool, size_t block, int thread, int threads) {
  const bool own = c->pieces % (size_t)threads == 0;
  return (struct Near){pool, product_claims_of_block(c), block, own ? thread : 0, own ? threads : 1, 0};
}

/* The rows, of a block of `height`, and the columns, of N, of a block's claim; there may be no rows. */
static inline void product_claimed(const struct ProductClaims *c, size_t claim, size_t height, size_t N, struct Span *rows,
                                   struct Span *columns) {
  const size_t piece = round_up(ceil_div(height, c->pieces), c->tiling.rows), from = claim / c->chunks % c->pieces * piece;
  *rows = (struct Span){size_min(from, height), size_min(from + piece, height)};
  *columns = span_part(N, c->tiling.columns, claim % c->chunks, c->chunks);
}

/* ---- products on tiles ---------------------------------------------------------------------------- */

enum {
  TILED_PANEL = 32,                      // rows and columns of a block of sums, numbers of K in a step
  TILED_STEP = TILED_PANEL * TILED_PANEL * 2,  // bytes of a panel's step, of each part
  TILED_SHARED = 3 << 19,                // bytes of a packed block of A, as many rows as fit: 1.5 MB
  TILED_GROUP = 384 << 10,               // bytes of packed columns of B, in the second cache
  TILED_K = 1024, TILED_K_PARTS = 512,   // the longest rows of a block, of BF16 and in three parts
};

static const struct Tiling TILED = {TILED_PANEL, TILED_PANEL, 0, 0, TILED_PANEL};

/* As product_claims. `whole`: B is not packed together, whatever its size. Packing is dear beside tiles, so threads have
 * rows of their own only where that packs no column twice. */
static inline struct ProductClaims tiled_claims(size_t M, size_t N, size_t K, size_t threads, size_t parts, bool whole,
                                                bool rows) {
  const size_t depth = round_up(ceil_div(K, ceil_div(K, parts == 1 ? TILED_K : TILED_K_PARTS)), TILED_PANEL);
  const size_t panel = depth / TILED_PANEL * parts * TILED_STEP, group = TILED_GROUP / panel;
  struct ProductClaims c = {.tiling = TILED,
                            .rows = round_up(ceil_div(M, ceil_div(M, TILED_SHARED / panel * TILED_PANEL)), TILED_PANEL),
                            .depth = depth};
  const size_t panels = ceil_div(N, TILED_PANEL), tall = c.rows / TILED_PANEL;
  const bool may = parts == 1 && !whole;
  c.together = may && panels < 4 * threads && panels * panel <= TILED_SHARED;
  if (c.together) {
    /* Rectangles as high as wide, so that a thread reads little that others have packed. */
    c.pieces = 1;
    while (4 * c.pieces * c.pieces * panels <= threads * tall) c.pieces *= 2;
    c.chunks = size_min(ceil_div(threads, c.pieces), panels);
  } else {
    /* As many panels as fit: the more, the longer the runs of a row that are written one after the other. */
    c.chunks = size_min(round_up(ceil_div(panels, group), threads), panels);
    c.pieces = ceil_div(threads, c.chunks);
  }
  /* Other rectangles where a thread would have much more to do than the rest. */
  const size_t packing = c.together ? 0 : 2;
  size_t least = product_busiest(c.chunks, c.pieces, panels, tall, threads, packing);
  least -= least / 20;
  for (size_t pieces = 1; pieces <= tall; pieces++) {
    for (size_t each = 1; each <= 4; each++) {
      const size_t chunks = size_min(panels, ceil_div(each * threads, pieces));
      const size_t busiest = product_busiest(chunks, pieces, panels, tall, threads, packing);
      if (busiest >= least || (!c.together && ceil_div(panels, chunks) > group)) continue;
      least = busiest, c.chunks = chunks, c.pieces = pieces;
    }
  }
  if (rows && threads > 1 && may && panels * panel <= TILED_GROUP) {
    c.together |= product_by_rows(&c, panels, tall, threads, c.together ? 0 : 1, least);
  }
  return c;
}

/* ---- packing ------------------------------------------------------------------------------------- */

/* How a block of a factor is packed by all threads: its panels, of which each is cut into slices of its depth where they
 * are fewer than would go round. A thread's share is a span of panels times slices. */
struct PackClaims {
  size_t panels, slices;
  size_t depth, grain;  // of the panels; a slice begins at a multiple of the grain
  bool across;          // numbered along the panels, not along a panel's slices
};

/* `whole`: panels cannot be sliced, because they are summed over too. `across`: a share is as many neighbouring panels as
 * it can be, where a slice of them is one run of memory. */
static inline struct PackClaims pack_claims(size_t lanes, size_t depth, size_t threads, struct Tiling t, bool whole,
                                            bool across) {
  enum { LEAST_DEPTH = 64, WORDS = 16 };  // words are turned eight by eight
  struct PackClaims c = {ceil_div(lanes, t.rows), 1, depth, size_max(WORDS, t.grain), across};
  if (whole || c.panels >= 4 * threads) return c;
  c.slices = across ? ceil_div(depth, c.grain) : size_min(size_max(1, depth / LEAST_DEPTH), ceil_div(4 * threads, c.panels));
  return c;
}

static inline struct Span pack_share(const struct PackClaims *c, int thread, int threads) {
  return span_part(c->panels * c->slices, 1, (size_t)thread, (size_t)threads);
}

/* The next panels of a share and the numbers of their depth, which may be none: several panels, or several slices of one. */
static inline bool pack_claimed(const struct PackClaims *c, struct Span *share, struct Span *panels, struct Span *numbers) {
  const bool across = c->across || c->slices == 1;
  const size_t run = across ? c->panels : c->slices, first = share->begin / run, from = share->begin % run;
  const size_t count = size_min(share->end - share->begin, run - from);
  if (share->begin == share->end) return false;
  share->begin += count;
  const size_t slice = across ? first : from, last = across ? first : from + count - 1;
  *panels = across ? (struct Span){from, from + count} : (struct Span){first, first + 1};
  *numbers = (struct Span){span_part(c->depth, c->grain, slice, c->slices).begin,
                           span_part(c->depth, c->grain, last, c->slices).end};
  return true;
}

/* ---- attention ----------------------------------------------------------------------------------- */

/* A head is one claim, or its strips are shared out too: each part takes every parts-th strip. Backward, a head whose
 * strips are shared out is worked on twice: a part of its keys gets its dk and dv, a part of its queries its dq. That is
 * seven products in place of five, and no sum has to wait for another thread. */
struct AttentionClaims {
  size_t heads, key_parts, query_parts;  // query_parts 0: dq is made along with dk and dv
};

static inline struct AttentionClaims attention_forward_claims(size_t heads, size_t strips, size_t threads) {
  struct AttentionClaims c = {heads, 1, 0};
  size_t least = (size_t)-1;
  for (size_t parts = 1; parts <= strips; parts++) {
    /* A part packs the head's keys and values for itself, which takes half as long as a strip. */
    const size_t busiest = ceil_div(heads * parts, threads) * (2 * ceil_div(strips, parts) + 1);
    if (busiest < least) least = busiest, c.key_parts = parts;
  }
  return c;
}

static inline struct AttentionClaims attention_backward_claims(size_t heads, size_t strips, size_t tiles, size_t threads) {
  const size_t parts = ceil_div(2 * threads, heads);
  /* 7 products evenly shared against 5, and a ninth for what is packed twice. */
  if (strips == 1 || 40 * ceil_div(heads, threads) * threads <= 63 * heads) return (struct AttentionClaims){heads, 1, 0};
  return (struct AttentionClaims){heads, size_min(parts, strips), size_min(parts, tiles)};
}

static inline size_t attention_claims_all(const struct AttentionClaims *c) {
  return c->heads * (c->key_parts + c->query_parts);
}

struct AttentionClaim {
  size_t head, part;
  bool queries;  // the part is one of queries
};

/* The largest come first: of queries the last, which see most keys; of keys the first, which most queries see. */
static inline struct AttentionClaim attention_claimed(const struct AttentionClaims *c, size_t claim, bool backward) {
  const size_t part = claim / c->heads, head = claim % c->heads;
  if (!backward) return (struct AttentionClaim){head, c->key_parts - 1 - part, false};
  if (part < c->key_parts) return (struct AttentionClaim){head, part, false};
  return (struct AttentionClaim){head, c->query_parts - 1 - (part - c->key_parts), true};
}

/* The keys that a part of forward's strips sees: up to the end of its last strip, which may lie past T. */
static inline size_t attention_seen(const struct AttentionClaims *c, struct AttentionClaim claim, size_t T, size_t width) {
  const size_t last = ceil_div(T, width) - 1;
  return (last - (last - claim.part) % c->key_parts + 1) * width;
}

/* What a claim of backward makes of its head: dk and dv of some strips of keys, dq of some tiles of queries, or all. */
struct AttentionShare {
  bool keys, queries;
  size_t first, strips;   // the first key; of the strips from there on every strips-th
  size_t part, tiles;     // of the tiles of queries every tiles-th, from the part-th on
};

static inline struct AttentionShare attention_share(const struct AttentionClaims *c, struct AttentionClaim claim,
                                                    size_t width) {
  if (claim.queries) return (struct AttentionShare){false, true, 0, 1, claim.part, c->query_parts};
  return (struct AttentionShare){true, c->query_parts == 0, claim.part * width, c->key_parts, 0, 1};
}

/* Whether it needs the tile of queries that begins at q0. */
static inline bool share_sees(const struct AttentionShare *share, size_t q0, size_t tile) {
  return q0 + tile > share->first && q0 / tile % share->tiles == share->part;
}

/* Where the keys end that its queries see. */
static inline size_t share_end(const struct AttentionShare *share, size_t T, size_t tile) {
  const size_t last = ceil_div(T, tile) - 1;
  return size_min(T, (last - (last + share->tiles - share->part) % share->tiles + 1) * tile);
}

/* A whole head is one of the items of the thread that computes its rows in the other operations. Parts of heads are items of
 * all threads alike. */
static inline struct Near attention_near(const struct AttentionClaims *c, struct Pool *pool, int thread, int threads) {
  const bool whole = c->key_parts == 1 && c->query_parts == 0;
  return (struct Near){pool, attention_claims_all(c), 0, whole ? thread : 0, whole ? threads : 1, 0};
}

/* ---- rows that are summed, and the update -------------------------------------------------------- */

enum { SQUARES_PARTS = 1024 };  // of an update and of a sum of squares: fixed, so that the order of the sum is

/* Columns of sums over rows are shared out in fours: the sums are collected in the thread that makes them, so that no
 * two write to one cache line for long. */
enum { SUMMED_COLUMNS = 4 };

/* The gradient of embeddings: rows of one token are added up in order, so a thread takes whole cache lines of all
 * tokens of some classes, which are the remainder of their number. Positions likewise. */
enum { EMBEDDING_COLUMNS = 16 };

struct EmbeddingClaims {
  size_t lines, classes;
};

static inline struct EmbeddingClaims embedding_claims(size_t C, size_t threads) {
  struct EmbeddingClaims c = {ceil_div(C, EMBEDDING_COLUMNS), 1};
  while (c.lines * c.classes < 3 * threads && c.lines % threads != 0) c.classes *= 2;
  return c;
}

/* The next claims of a thread: columns of one class, which is returned. */
static inline size_t embedding_claimed(const struct EmbeddingClaims *c, struct Span *claims, size_t C,
                                       struct Span *columns) {
  const size_t class = claims->begin / c->lines, end = size_min(claims->end, (class + 1) * c->lines);
  *columns = (struct Span){(claims->begin - class * c->lines) * EMBEDDING_COLUMNS,
                           size_min(C, (end - class * c->lines) * EMBEDDING_COLUMNS)};
  claims->begin = end;
  return class;
}

#endif
