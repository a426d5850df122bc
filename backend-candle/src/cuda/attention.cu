// softmax(q k^T scale) v with the log-sum-exp of every row.
//
// A block holds some query rows i of one head. It visits the keys and values in tiles of 64, with x = scale log2(e):
//
//   m'  = max(m, max_j q_i·k_j x)             the running maximum
//   p_j = 2^(q_i·k_j x − m')                  rounded to a word for the product with v, but not for the sum
//   l   = l 2^(m − m') + sum_j p_j            O = O 2^(m − m') + sum_j p_j v_j
//
// At the end the row is O / l, and its log-sum-exp is m ln 2 + ln l.
//
// The recurrence is that of FlashAttention-2. These are the differences. The log-sum-exp is a result, because votes are made
// from it. It is always written, so a caller who ignores it gets the same bits. Keys and values have one buffer each: the
// next keys arrive during the softmax and the product with the values, the next values during the product with the keys.
// The output is [b, m, h, DIM], as the next layer reads it. There is no mask, no bias and no dropout.

namespace attending {

// The number of 16-row tiles of a warp. With two, each word from shared memory serves two products.
constexpr int TILES = ATTENTION_ROWS / (16 * WARPS);
static_assert(TILES > 0 && ATTENTION_ROWS == 16 * TILES * WARPS, "whole tiles for every warp");
constexpr int KEYS = TILE / 8;
constexpr int VALUES = PADDED / 8;

// 16 rows of the output in the making. Index 0 is row g, index 1 is row g + 8.
struct Output {
  float sums[VALUES][4];
  float maximum[2];
  // The sum of the terms that this lane has seen.
  float total[2];
};

__device__ inline void clear(Output& o) {
#pragma unroll
  for (int i = 0; i < VALUES * 4; i++) o.sums[i / 4][i % 4] = 0.0f;
#pragma unroll
  for (int half = 0; half < 2; half++) o.maximum[half] = MINUS_INFINITY, o.total[half] = 0.0f;
}

// Logits in powers of two. Those of keys that do not exist are -inf.
__device__ inline void scale_logits(float (&c)[KEYS][4], float factor, int keys) {
#pragma unroll
  for (int j = 0; j < KEYS; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      c[j][e] = 8 * j + lane_column() + e % 2 < keys ? c[j][e] * factor : MINUS_INFINITY;
    }
  }
}

// Turns logits into terms, and fits the sums so far to the new maximum.
__device__ inline void update(Output& o, float (&c)[KEYS][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float highest = o.maximum[half];
#pragma unroll
    for (int j = 0; j < KEYS; j++) highest = fmaxf(highest, fmaxf(c[j][2 * half], c[j][2 * half + 1]));
    highest = fmaxf(highest, exchange(highest, 1));
    highest = fmaxf(highest, exchange(highest, 2));
    // with only -inf so far, no term is above 0
    const float reference = highest == MINUS_INFINITY ? 0.0f : highest;
    const float shrink = power_of_two(o.maximum[half] - reference);
    float total = o.total[half] * shrink;
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        c[j][e] = power_of_two(c[j][e] - reference);
        total += c[j][e];
      }
    }
#pragma unroll
    for (int d = 0; d < VALUES; d++) o.sums[d][2 * half] *= shrink, o.sums[d][2 * half + 1] *= shrink;
    o.maximum[half] = highest;
    o.total[half] = total;
  }
}

// O += p v. Sums of products lie in the registers as the left operand of the next product needs them.
__device__ inline void add_values(Output (&o)[TILES], const float (&c)[TILES][KEYS][4], const word (&values)[TILE][PITCH]) {
#pragma unroll
  for (int step = 0; step < TILE / 16; step++) {
    unsigned p[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; i++) {
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float(&from)[4] = c[i][2 * step + r / 2];
        p[i][r] = round_pair(from[r % 2 * 2], from[r % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int d = 0; d < VALUES; d += 2) {
      unsigned b[4];
      load_transposed(b, &values[16 * step + lane() % 16][8 * d + lane() / 16 * 8]);
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        multiply_add(o[i].sums[d], p[i], b[0], b[1]);
        multiply_add(o[i].sums[d + 1], p[i], b[2], b[3]);
      }
    }
  }
}

// Writes 16 rows from `first` on. `output` and `lse` start at row 0 of this head; rows of the output are `stride` apart.
__device__ inline void write(const Output& o, word* output, float* lse, long long stride, int first, int count) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = first + lane_row() + 8 * half;
    const float total = sum_of_four(o.total[half]);
    if (row >= count) continue;
    const float inverse = 1.0f / total;
    word* to = output + stride * row;
#pragma unroll
    for (int d = 0; d < DIM / 8; d++) {
      const float left = o.sums[d][2 * half] * inverse, right = o.sums[d][2 * half + 1] * inverse;
      *reinterpret_cast<unsigned*>(to + 8 * d + lane_column()) = round_pair(left, right);
    }
    if (lane() % 4 == 0) lse[row] = fmaf(o.maximum[half], LN_2, logf(total));
  }
}

}  // namespace attending

// `factor` is scale log2(e). One block for every ATTENTION_ROWS query rows of a head.
extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const word* q, Strides q_by, const word* k, Strides k_by, const word* v, Strides v_by, word* output, float* lse,
              int heads, int m, int n, float factor) {
  using namespace attending;
  __shared__ __align__(16) word keys[TILE][PITCH];
  __shared__ __align__(16) word values[TILE][PITCH];
  const Part at = part(heads, m, ATTENTION_ROWS);
  const Rows queries = rows_of(q, q_by, at.batch, at.head, m);
  const Rows from_k = rows_of(k, k_by, at.batch, at.head, n);
  const Rows from_v = rows_of(v, v_by, at.batch, at.head, n);
  const int first = at.first + 16 * TILES * warp();

  copy_tile(keys, from_k, 0);
  end_group();
  copy_tile(values, from_v, 0);
  end_group();
  unsigned a[TILES][STEPS][4];
  Output o[TILES];
#pragma unroll
  for (int i = 0; i < TILES; i++) load_rows(a[i], queries, first + 16 * i), clear(o[i]);

  for (int start = 0; start < n; start += TILE) {
    const bool more = start + TILE < n;
    float c[TILES][KEYS][4];
    wait_for_groups<1>();
    __syncthreads();  // the keys are here
    products(c, a, keys, 0);
    __syncthreads();  // every warp has read the keys
    if (more) copy_tile(keys, from_k, start + TILE);
    end_group();
#pragma unroll
    for (int i = 0; i < TILES; i++) scale_logits(c[i], factor, n - start), update(o[i], c[i]);
    wait_for_groups<1>();
    __syncthreads();  // the values are here
    add_values(o, c, values);
    __syncthreads();  // every warp has read the values
    if (more) copy_tile(values, from_v, start + TILE);
    end_group();
  }

  const long long stride = static_cast<long long>(heads) * DIM;
  word* to = output + (static_cast<long long>(at.batch) * m * heads + at.head) * DIM;
  float* sums = lse + (static_cast<long long>(at.batch) * heads + at.head) * m;
#pragma unroll
  for (int i = 0; i < TILES; i++) write(o[i], to, sums, stride, first + 16 * i, m);
}
