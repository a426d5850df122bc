// u_j = sum_i A_ij s_i with A_ij = e^(q_i·k_j scale − lse_i): one step of a vote of queries on keys, without the map.
//
// A block holds some keys j of one head in registers, and all queries pass over them in tiles of 64:
//
//   u_j += 2^(q_i·k_j x − lse_i log2(e)) s_i       for i in ascending order, x = scale log2(e)
//
// FlashAttention's backward pass visits the map in the same way, and its gradient of v with s as one column would be u. Here
// only the product of keys and queries is left. Each u_j is summed in one place and stored once, without atomic additions.
// So results repeat bit for bit. Scores may be negative, therefore they are factors and not part of the exponent.

namespace voting {

// The number of 16-key tiles of a warp.
constexpr int TILES = VOTES_ROWS / (16 * WARPS);
static_assert(TILES > 0 && VOTES_ROWS == 16 * TILES * WARPS, "whole tiles for every warp");
constexpr int QUERIES = TILE / 8;

// What the votes need of the queries in a tile: the exponents' last term, and the scores. Missing queries have score 0.
struct Voters {
  float shift[TILE], score[TILE];
};

__device__ inline void copy_voters(Voters& to, const float* lse, const float* scores, int first, int count) {
  for (int i = threadIdx.x; i < TILE; i += THREADS) {
    const bool there = first + i < count;
    to.shift[i] = there ? -lse[first + i] * LOG2_E : 0.0f;
    to.score[i] = there ? scores[first + i] : 0.0f;
  }
}

__device__ inline void add_votes(float (&votes)[TILES][2], const float (&c)[TILES][QUERIES][4], const Voters& voters,
                                 float factor) {
#pragma unroll
  for (int j = 0; j < QUERIES; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float shift = voters.shift[8 * j + lane_column() + e], score = voters.score[8 * j + lane_column() + e];
#pragma unroll
      for (int i = 0; i < TILES; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float entry = power_of_two(fmaf(c[i][j][2 * half + e], factor, shift));
          votes[i][half] = fmaf(entry, score, votes[i][half]);
        }
      }
    }
  }
}

}  // namespace voting

// Writes [b, h, n] for the scores and the log-sum-exp [b, h, m]. One block for every VOTES_ROWS keys of a head.
extern "C" __global__ void __launch_bounds__(THREADS)
    votes(const word* q, Strides q_by, const word* k, Strides k_by, const float* lse, const float* scores, float* into,
          int heads, int m, int n, float factor) {
  using namespace voting;
  __shared__ __align__(16) word queries[2][TILE][PITCH];
  __shared__ Voters voters[2];
  const Part at = part(heads, n, VOTES_ROWS);
  const Rows from_q = rows_of(q, q_by, at.batch, at.head, m);
  const Rows keys = rows_of(k, k_by, at.batch, at.head, n);
  const long long head = static_cast<long long>(at.batch) * heads + at.head;
  const int first = at.first + 16 * TILES * warp();
  lse += head * m;
  scores += head * m;

  copy_tile(queries[0], from_q, 0);
  end_group();
  copy_voters(voters[0], lse, scores, 0, m);
  unsigned a[TILES][STEPS][4];
  float sums[TILES][2];
#pragma unroll
  for (int i = 0; i < TILES; i++) load_rows(a[i], keys, first + 16 * i), sums[i][0] = sums[i][1] = 0.0f;

  for (int start = 0, now = 0; start < m; start += TILE, now = 1 - now) {
    if (start + TILE < m) {
      copy_tile(queries[1 - now], from_q, start + TILE);
      copy_voters(voters[1 - now], lse, scores, start + TILE, m);
    }
    end_group();
    wait_for_groups<1>();
    __syncthreads();  // this tile is here
    float c[TILES][QUERIES][4];
    products(c, a, queries[now], 0);
    add_votes(sums, c, voters[now], factor);
    __syncthreads();  // every warp has read it
  }

#pragma unroll
  for (int i = 0; i < TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = first + 16 * i + lane_row() + 8 * half;
      const float sum = sum_of_four(sums[i][half]);
      if (row < n && lane() % 4 == 0) into[head * n + row] = sum;
    }
  }
}
