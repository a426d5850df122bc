// What backend-candle/src/cuda/device.cuh is on a GPU, for a host: CUDA's keywords, and the same functions lane by lane.
//
// Sums of products are made in f64 and rounded once. A GPU rounds more often, in an order that is not documented.

#include <cmath>

#include "fibers.hpp"

typedef unsigned short word;

#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))
// All shared memory is in one section, so that it can be filled with NaN before each block.
#define __shared__ static __attribute__((section("shared_memory")))
#define threadIdx (host::block.now->index)
#define blockIdx (host::block.index)
#define MINUS_INFINITY (-INFINITY)

extern "C" unsigned char __start_shared_memory[], __stop_shared_memory[];

inline void __syncthreads() { host::barrier(); }

namespace host {

inline void spoil_shared_memory() {
  std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
}

inline float from_bits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline std::uint32_t to_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

#ifdef BF16
inline float decode(word x) { return from_bits(static_cast<std::uint32_t>(x) << 16); }

inline word encode(float x) {
  const std::uint32_t bits = to_bits(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<word>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#else
inline float decode(word x) {
  const int exponent = x >> 10 & 31, fraction = x & 1023;
  float size = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                               : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return x >> 15 ? -size : size;
}

inline word encode(float x) {
  const word sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (size >= 65520.0f) return sign | 0x7c00;
  // 0 has the exponent of the smallest numbers
  int exponent = -24;
  if (size > 0.0f) std::frexp(size, &exponent);
  // the spacing of f16 at this size; nearbyint rounds ties to even
  const int spacing = std::max(exponent - 11, -24);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, -spacing)));
  return sign | static_cast<word>(spacing == -24 ? steps : ((spacing + 24) << 10) + steps);
}
#endif

inline const std::vector<float>& decoded() {
  static const std::vector<float> table = [] {
    std::vector<float> all(65536);
    for (int x = 0; x < 65536; x++) all[x] = decode(static_cast<word>(x));
    return all;
  }();
  return table;
}

struct Operands {
  float c[4];
  unsigned a[4], b[2];
};
struct Sums {
  float c[4];
};
struct Registers {
  unsigned r[4];
};

inline void multiply_all(const Operands* in, Sums* out) {
  const std::vector<float>& value = decoded();
  float a[16][16], b[16][8];
  for (int lane = 0; lane < LANES; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; r++) {
      for (int half = 0; half < 2; half++) {
        a[g + r % 2 * 8][2 * t + r / 2 * 8 + half] = value[in[lane].a[r] >> 16 * half & 0xffff];
      }
    }
    for (int r = 0; r < 2; r++) {
      for (int half = 0; half < 2; half++) b[2 * t + r * 8 + half][g] = value[in[lane].b[r] >> 16 * half & 0xffff];
    }
  }
  for (int lane = 0; lane < LANES; lane++) {
    for (int e = 0; e < 4; e++) {
      const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
      double sum = in[lane].c[e];
      for (int k = 0; k < 16; k++) sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      out[lane].c[e] = static_cast<float>(sum);
    }
  }
}

template <bool TRANSPOSED>
inline void load_all(const word* const* rows, Registers* out) {
  for (int lane = 0; lane < LANES; lane++) {
    for (int i = 0; i < 4; i++) {
      const int g = lane / 4, t = lane % 4;
      const word* const* matrix = rows + 8 * i;
      const unsigned low = TRANSPOSED ? matrix[2 * t][g] : matrix[g][2 * t];
      const unsigned high = TRANSPOSED ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      out[lane].r[i] = low | high << 16;
    }
  }
}

inline void expect_aligned(const void* pointer) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % 16) fail("expected an address that is a multiple of 16", "a row");
}

template <bool TRANSPOSED>
inline void load(unsigned (&r)[4], const word* row) {
  expect_aligned(row);
  const char* operation = TRANSPOSED ? "load_transposed" : "load_matrices";
  const Registers mine = together<const word*, Registers>(operation, row, load_all<TRANSPOSED>);
  std::copy(mine.r, mine.r + 4, r);
}

template <class T>
struct Exchanged {
  T value;
  int mask;
};

template <class T>
inline void exchange_all(const Exchanged<T>* in, T* out) {
  for (int lane = 0; lane < LANES; lane++) out[lane] = in[lane ^ in[lane].mask].value;
}

inline void make_copy(const Copy& copy) {
  if (copy.from) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
}

}  // namespace host

inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const host::Operands mine = {{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
  const host::Sums sums = host::together<host::Operands, host::Sums>("multiply_add", mine, host::multiply_all);
  std::copy(sums.c, sums.c + 4, c);
}

inline void load_matrices(unsigned (&r)[4], const word* row) { host::load<false>(r, row); }
inline void load_transposed(unsigned (&r)[4], const word* row) { host::load<true>(r, row); }

inline void start_copy(word* to, const word* from, bool there) {
  host::expect_aligned(to);
  host::expect_aligned(from);
  const host::Copy copy = {to, there ? from : nullptr};
  if (!host::block.late_copies) host::make_copy(copy);
  host::block.now->groups.back().push_back(copy);
}

inline void end_group() { host::block.now->groups.emplace_back(); }

template <int OPEN>
inline void wait_for_groups() {
  // the last one is not ended yet
  std::vector<std::vector<host::Copy>>& groups = host::block.now->groups;
  while (static_cast<int>(groups.size()) - 1 > OPEN) {
    if (host::block.late_copies) std::for_each(groups.front().begin(), groups.front().end(), host::make_copy);
    groups.erase(groups.begin());
  }
}

inline float power_of_two(float x) {
  const float y = std::exp2(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

inline unsigned round_pair(float low, float high) {
  return host::encode(low) | static_cast<unsigned>(host::encode(high)) << 16;
}

template <class T>
inline T exchange(T value, int mask) {
  return host::together<host::Exchanged<T>, T>("exchange", {value, mask}, host::exchange_all<T>);
}
