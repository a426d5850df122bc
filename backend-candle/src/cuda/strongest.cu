// For each pruned key the kept query that attends to it most, in the mean over heads, without the map.
//
// A block holds some pruned keys j of one batch entry. The kept queries i pass over them in ascending tiles of 64, and for
// each tile all heads h in their order:
//
//   a_ij  = sum_h 2^(q_hi·k_hj x − lse_hi log2(e))           x = scale log2(e)
//   the answer of j is the lowest i with the largest a_ij    the sum is as good as the mean
//
// FlashAttention has nothing like it. Keys and queries of the next head arrive while the present one is computed: the keys
// once they are in registers, the queries once the product is made. A sum that is not a number sets a flag. Several threads
// may set it, all to the same value.

namespace searching {

// The number of 16-key tiles. Every warp has all of them.
constexpr int TILES = STRONGEST_ROWS / 16;
static_assert(TILES > 0 && STRONGEST_ROWS == 16 * TILES, "whole tiles");
// The queries of a tile are divided between the warps.
constexpr int SHARE = TILE / WARPS;
static_assert(SHARE % 16 == 0, "a warp reads 16 queries at once");
constexpr int QUERIES = SHARE / 8;

struct Best {
  float sum;
  int row;
};

// The larger sum; with equal sums the lower row.
__device__ inline Best better(Best x, Best y) { return y.sum > x.sum || (y.sum == x.sum && y.row < x.row) ? y : x; }

__device__ inline void add_entries(float (&sums)[TILES][QUERIES][4], const float (&c)[TILES][QUERIES][4],
                                   const float (&shift)[TILE], float factor) {
#pragma unroll
  for (int i = 0; i < TILES * QUERIES * 4; i++) {
    const int tile = i / (QUERIES * 4), j = i / 4 % QUERIES, e = i % 4;
    const int query = SHARE * warp() + 8 * j + lane_column() + e % 2;
    sums[tile][j][e] += power_of_two(fmaf(c[tile][j][e], factor, shift[query]));
  }
}

// Compares the sums of a tile of queries that starts at row `start`, then clears them. Returns whether one of them, at a
// query and a key that exist, is not a number.
__device__ inline bool compare(Best (&best)[TILES][2], float (&sums)[TILES][QUERIES][4], int start, int kept, int keys) {
  bool unordered = false;
#pragma unroll
  for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
    for (int j = 0; j < QUERIES; j++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = start + SHARE * warp() + 8 * j + lane_column() + e % 2;
        const float sum = sums[tile][j][e];
        const bool there = row < kept && 16 * tile + lane_row() + e / 2 * 8 < keys;
        if (there && sum > best[tile][e / 2].sum) best[tile][e / 2] = Best{sum, row};
        unordered |= there && sum != sum;
        sums[tile][j][e] = 0.0f;
      }
    }
  }
  return unordered;
}

// The best of the four lanes that share a key.
__device__ inline Best best_of_four(Best x) {
#pragma unroll
  for (int mask = 1; mask < 4; mask *= 2) x = better(x, Best{exchange(x.sum, mask), exchange(x.row, mask)});
  return x;
}

// The tensors, and the two lists of one batch entry.
struct Operands {
  const word *q, *k;
  Strides q_by, k_by;
  const float* lse;
  const unsigned *kept_list, *pruned_list;
  int batch, heads, m, kept, pruned;

  __device__ Rows keys(int head) const { return rows_of(k, k_by, batch, head, pruned, pruned_list); }

  __device__ Rows queries(int head) const { return rows_of(q, q_by, batch, head, kept, kept_list); }

  __device__ void copy_shift(float (&to)[TILE], int head, int first) const {
    const float* from = lse + (static_cast<long long>(batch) * heads + head) * m;
    for (int i = threadIdx.x; i < TILE; i += THREADS) {
      to[i] = first + i < kept ? -from[kept_list[first + i]] * LOG2_E : 0.0f;
    }
  }
};

}  // namespace searching

// Writes positions within `kept_list` to [b, pruned], and 1 to `unordered` for a NaN. The lists are [b, kept] and [b, pruned]
// rows of q, lse [b, h, m] and of k. One block for every STRONGEST_ROWS pruned keys of a batch entry.
extern "C" __global__ void __launch_bounds__(THREADS)
    strongest(const word* q, Strides q_by, const word* k, Strides k_by, const float* lse, const unsigned* kept_list,
              const unsigned* pruned_list, unsigned* into, unsigned* unordered, int heads, int m, int kept, int pruned,
              float factor) {
  using namespace searching;
  __shared__ __align__(16) word keys[STRONGEST_ROWS][PITCH];
  __shared__ __align__(16) word queries[TILE][PITCH];
  __shared__ float shift[TILE];
  __shared__ Best found[WARPS][STRONGEST_ROWS];
  const Part at = part(1, pruned, STRONGEST_ROWS);
  const Operands from = {q,    k,     q_by, k_by, lse, kept_list + static_cast<long long>(at.batch) * kept,
                         pruned_list + static_cast<long long>(at.batch) * pruned,
                         at.batch, heads, m, kept, pruned};

  copy_tile(keys, from.keys(0), at.first);
  end_group();
  copy_tile(queries, from.queries(0), 0);
  from.copy_shift(shift, 0, 0);
  end_group();
  Best best[TILES][2];
  float sums[TILES][QUERIES][4];
#pragma unroll
  for (int i = 0; i < TILES * QUERIES * 4; i++) sums[i / (QUERIES * 4)][i / 4 % QUERIES][i % 4] = 0.0f;
#pragma unroll
  for (int i = 0; i < TILES * 2; i++) best[i / 2][i % 2] = Best{MINUS_INFINITY, 0};
  bool nan = false;

  for (int start = 0, head = 0; start < kept;) {
    const int next_head = head + 1 < heads ? head + 1 : 0;
    const int next_start = next_head ? start : start + TILE;
    const bool more = next_start < kept;
    unsigned a[TILES][STEPS][4];
    float c[TILES][QUERIES][4];
    wait_for_groups<1>();
    __syncthreads();  // the keys are here
#pragma unroll
    for (int i = 0; i < TILES; i++) load_rows(a[i], keys, 16 * i);
    __syncthreads();  // every warp has read the keys
    if (more) copy_tile(keys, from.keys(next_head), at.first);
    end_group();
    wait_for_groups<1>();
    __syncthreads();  // the queries are here
    products(c, a, queries, SHARE * warp());
    add_entries(sums, c, shift, factor);
    __syncthreads();  // every warp has read the queries
    if (more) copy_tile(queries, from.queries(next_head), next_start), from.copy_shift(shift, next_head, next_start);
    end_group();
    if (!next_head) nan |= compare(best, sums, start, kept, pruned - at.first);
    start = next_start, head = next_head;
  }

#pragma unroll
  for (int i = 0; i < TILES * 2; i++) {
    const Best of_warp = best_of_four(best[i / 2][i % 2]);
    if (lane() % 4 == 0) found[warp()][16 * (i / 2) + 8 * (i % 2) + lane_row()] = of_warp;
  }
  if (nan) *unordered = 1;
  __syncthreads();
  const int key = threadIdx.x;
  if (key < STRONGEST_ROWS && at.first + key < pruned) {
    Best of_all = found[0][key];
    for (int other = 1; other < WARPS; other++) of_all = better(of_all, found[other][key]);
    into[static_cast<long long>(at.batch) * pruned + at.first + key] = of_all.row;
  }
}
