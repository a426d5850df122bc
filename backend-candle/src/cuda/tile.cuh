// What the kernels share: rows of heads, tiles of them in shared memory, and products of rows with a tile.
//
// Whoever compiles the source defines these, and launches by them:
//
//   DIM                                           the number of elements in a head, a multiple of 8
//   BF16                                          the words are bf16; without it they are f16
//   WARPS                                         the warps of a block
//   ATTENTION_ROWS, VOTES_ROWS, STRONGEST_ROWS    the rows of a block: queries, keys and pruned keys
//
// Tensors are [b, h, rows, DIM] anywhere in memory. The elements of a row are contiguous, and every row starts at a multiple
// of 8 words.

constexpr int THREADS = 32 * WARPS;
// The number of rows in a tile of shared memory.
constexpr int TILE = 64;
// Products take 16 columns at once. The columns from DIM on are zero.
constexpr int PADDED = (DIM + 15) / 16 * 16;
constexpr int STEPS = PADDED / 16;
// The distance of rows in shared memory is an odd number of 16 bytes. So 8 rows of a matrix lie in different banks.
constexpr int PITCH = PADDED + 8;

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// The distances in words between batch entries, heads and rows.
struct Strides {
  long long batch, head, row;
};

// Rows of one head. With a list, row i is row list[i] of the tensor.
struct Rows {
  const word* data;
  long long stride;
  int count;
  const unsigned* list;

  __device__ const word* at(int row) const { return data + stride * (list ? static_cast<int>(list[row]) : row); }
};

__device__ inline Rows rows_of(const word* data, Strides by, int batch, int head, int count, const unsigned* list = nullptr) {
  return Rows{data + by.batch * batch + by.head * head, by.row, count, list};
}

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }
// The row g and the column 2t of this lane in a sum of products.
__device__ inline int lane_row() { return lane() / 4; }
__device__ inline int lane_column() { return lane() % 4 * 2; }

// The part of the work of a block: `rows` rows of one head, from `first` on. Blocks of one head are neighbours.
struct Part {
  int batch, head, first;
};

__device__ inline Part part(int heads, int count, int rows) {
  const int parts = (count + rows - 1) / rows;
  const int of = static_cast<int>(blockIdx.x) / parts;
  return Part{of / heads, of % heads, static_cast<int>(blockIdx.x) % parts * rows};
}

// Starts to copy `COUNT` rows from `first` on. Rows and columns that do not exist become zero.
template <int COUNT>
__device__ inline void copy_tile(word (&to)[COUNT][PITCH], const Rows& from, int first) {
  constexpr int CHUNKS = PADDED / 8;
  for (int i = threadIdx.x; i < COUNT * CHUNKS; i += THREADS) {
    const int row = i / CHUNKS, column = i % CHUNKS * 8;
    const bool there = first + row < from.count && column < DIM;
    start_copy(&to[row][column], there ? from.at(first + row) + column : from.data, there);
  }
}

// This warp's stationary operand: 16 rows from `first` on, straight from the tensor. Missing ones are zero.
__device__ inline void load_rows(unsigned (&a)[STEPS][4], const Rows& from, int first) {
  for (int half = 0; half < 2; half++) {
    const int row = first + lane_row() + 8 * half;
    const word* data = row < from.count ? from.at(row) : nullptr;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int column = 16 * step + lane_column();
      const bool right = data && column + 8 < DIM;
      a[step][half] = data ? *reinterpret_cast<const unsigned*>(data + column) : 0;
      a[step][2 + half] = right ? *reinterpret_cast<const unsigned*>(data + column + 8) : 0;
    }
  }
}

// The same operand from a tile in shared memory.
template <int COUNT>
__device__ inline void load_rows(unsigned (&a)[STEPS][4], const word (&from)[COUNT][PITCH], int first) {
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
    load_matrices(a[step], &from[first + lane() % 16][16 * step + lane() / 16 * 8]);
  }
}

// c = a tile^T: every one of this warp's rows times 8 COLUMNS rows of the tile, from `first` on.
template <int TILES, int COLUMNS, int COUNT>
__device__ inline void products(float (&c)[TILES][COLUMNS][4], const unsigned (&a)[TILES][STEPS][4],
                                const word (&tile)[COUNT][PITCH], int first) {
#pragma unroll
  for (int i = 0; i < TILES * COLUMNS * 4; i++) c[i / (COLUMNS * 4)][i / 4 % COLUMNS][i % 4] = 0.0f;
#pragma unroll
  for (int step = 0; step < STEPS; step++) {
#pragma unroll
    for (int pair = 0; pair < COLUMNS; pair += 2) {
      const int row = first + 8 * pair + lane() % 8 + lane() / 16 * 8;
      unsigned b[4];
      load_matrices(b, &tile[row][16 * step + lane() / 8 % 2 * 8]);
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        multiply_add(c[i][pair], a[i][step], b[0], b[1]);
        multiply_add(c[i][pair + 1], a[i][step], b[2], b[3]);
      }
    }
  }
}

// The sum over the four lanes that share rows. Every one of them gets the same bits.
__device__ inline float sum_of_four(float x) {
  x += exchange(x, 1);
  return x + exchange(x, 2);
}
