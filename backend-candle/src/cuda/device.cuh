// The instructions of the GPU that the kernels use. Everything else in the sources is plain C++.
//
// Nothing is included, so that NVRTC needs no path to headers: a bf16 or an f16 is a 16-bit word here. The tests compile the
// kernels for the host with tests/cuda/host.hpp in the place of this file. It has the same functions.
//
// A lane is one of the 32 threads of a warp: g = lane / 4 and t = lane % 4. The operands of `multiply_add` lie in its
// registers as PTX defines for mma.m16n8k16. A register holds two neighbouring words, the lower column in the lower half:
//
//   a[0], a[1]   rows g, g + 8 and columns 2t, 2t + 1       a[2], a[3]   the same rows, columns 2t + 8, 2t + 9
//   b0, b1       rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column g
//   c[0], c[1]   row g, columns 2t, 2t + 1                  c[2], c[3]   row g + 8

typedef unsigned short word;

#define MINUS_INFINITY __int_as_float(0xff800000)

// The address of a pointer into shared memory, as the instructions take it.
__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// c += a b, for a [16, 16] and b [16, 8]: products of words, sums in f32.
__device__ inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifdef BF16
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 x 8 words from shared memory. Lane i names row i % 8 of matrix i / 8. Afterwards register i holds of
// matrix i row g, columns 2t and 2t + 1.
__device__ inline void load_matrices(unsigned (&r)[4], const word* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same with each matrix transposed: register i holds of matrix i rows 2t and 2t + 1, column g.
__device__ inline void load_transposed(unsigned (&r)[4], const word* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Starts a copy of 8 words to shared memory. If they are not there, it writes zeros and reads nothing.
__device__ inline void start_copy(word* to, const word* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
               : "memory");
}

// Makes a group of the copies that this thread has started since the last group.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until this thread's copies have ended, except those of its last `OPEN` groups.
template <int OPEN>
__device__ inline void wait_for_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

// 2^x. The error is below 2 units in the last place, and results below the normal numbers are 0.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two numbers rounded to words, ties to even. `low` is in the lower half.
__device__ inline unsigned round_pair(float low, float high) {
  unsigned pair;
#ifdef BF16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}

// The value of the lane whose number differs in the bits of `mask`.
__device__ inline float exchange(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
__device__ inline int exchange(int value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
