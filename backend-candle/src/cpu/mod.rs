//! Blocked, threaded kernels for the CPU, on plain slices: f32, and bf16 with f32 inside.
//!
//! Attention comes from [`atedm_cpu_kernels`] on a processor with AVX2 in f32, and with AVX512-BF16 in bf16. With AVX-512, linear
//! layers and convolutions do, too. Elsewhere they are matrix products of the `gemm` crate in f32, which Candle uses as well. The rest is one or two passes over memory,
//! split over the calling thread and rayon's global pool. Inner loops are compiled for each instruction set, and `pulp` chooses one at run time.
//! Work is cut by sizes, never by the number of threads, and sums over pieces run in a fixed order. A result therefore does
//! not depend on the number of threads.

pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod columns;
pub(crate) mod conv;
pub(crate) mod elementwise;
pub(crate) mod layers;
pub(crate) mod layout;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod number;
pub(crate) mod operation;
pub(crate) mod pool;
pub(crate) mod product;
pub(crate) mod strongest;
pub(crate) mod view;
