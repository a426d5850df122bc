//! Blocked, threaded kernels for the CPU in f32, on plain slices.
//!
//! Everything heavy is a matrix product of the `gemm` crate (which Candle uses as well); the rest is one or two passes
//! over memory, split over rayon's global pool, whose inner loops are compiled for each instruction set and chosen at
//! run time (`pulp`). Pieces are cut by sizes alone, never by the number of threads, and sums over pieces run in a fixed
//! order: a result does not depend on how many threads computed it.

pub(crate) mod attention;
pub(crate) mod conv;
pub(crate) mod elementwise;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod product;
pub(crate) mod strongest;
pub(crate) mod view;
