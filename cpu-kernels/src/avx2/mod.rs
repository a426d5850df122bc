//! The kernels of attention in f32 on AVX2 and FMA, for processors without AVX512-BF16.
//!
//! | file | what |
//! |---|---|
//! | `lanes` | registers of 8 numbers, and the exponential |
//! | `tile` | the product of 6 rows and 16 columns in registers |
//! | `pack` | queries, keys and values in the order in which tiles read them |
//! | `attention`, `votes`, `strongest` | the three kernels |
//!
//! They compute what the kernels of the same names for AVX-512 compute, with the same recurrences and in blocks of the same
//! kind. There are 16 registers here instead of 32, and half as wide. So a tile has 16 columns, and a panel of 64 keys is
//! four tiles.

mod attention;
mod lanes;
mod pack;
mod strongest;
mod tile;
mod votes;

pub(crate) use attention::attention;
pub(crate) use strongest::strongest;
pub(crate) use votes::votes;
