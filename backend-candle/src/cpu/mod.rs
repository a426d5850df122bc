//! Blocked, threaded kernels for the CPU in f32, on plain slices.
//!
//! All heavy work is matrix products of the `gemm` crate, which Candle uses as well. The rest is one or two passes
//! over memory, split over rayon's global pool. Inner loops are compiled for each instruction set, and `pulp`
//! chooses one at run time. Work is cut by sizes, never by the number of threads, and sums over pieces run in a
//! fixed order. A result therefore does not depend on the number of threads.

pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod conv;
pub(crate) mod elementwise;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod product;
pub(crate) mod strongest;
pub(crate) mod view;
