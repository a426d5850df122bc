#![doc = include_str!("../README.md")]
//!
//! # Structure
//! | file | what |
//! |---|---|
//! | `heads` | queries, keys and values in memory |
//! | `output` | an output that several threads write |
//! | `pack`, `packed` | their copies in the order in which tiles read them |
//! | `lanes` | registers, and the exponential |
//! | `element`, `typed` | bf16 and f32: what differs between them, and operands of one of them |
//! | `tile` | the product of 6 rows and 64 columns in registers |
//! | `amx` | the product of 32 rows and 32 columns in AMX's tiles |
//! | `units` | logits of 32 queries and 32 keys in AMX's tiles |
//! | `threads` | tasks on the threads that the caller lends |
//! | `cpu` | the instructions of this machine, and a limit by the user |
//! | `attention`, `votes`, `strongest` | the three kernels of attention; the map `[b, h, m, n]` is never stored |
//! | `product` | matrix products and convolutions |
//! | `ballot` | the vote that attention casts itself |
//! | `avx2` | the kernels of attention for processors without AVX512-BF16, in f32 |
//! | `memory` | memory that stays for the next call |
//! | `elsewhere` | their signatures on other architectures |
//!
//! Work is cut by sizes, never by the number of threads, and sums over pieces run in a fixed order. A result
//! therefore does not depend on the number of threads.

// The kernels are written for x86. Elsewhere only their signatures exist, so what they use is unused.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

#[cfg(target_arch = "x86_64")]
mod amx;
mod cpu;
mod heads;
mod memory;
mod product;
mod threads;

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod ballot;
#[cfg(target_arch = "x86_64")]
mod element;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod output;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(target_arch = "x86_64")]
mod strongest;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod typed;
#[cfg(target_arch = "x86_64")]
mod units;
#[cfg(target_arch = "x86_64")]
mod votes;

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(test)]
mod tests;

pub use cpu::{Cpu, LIMIT, Level};
#[cfg(not(target_arch = "x86_64"))]
pub use elsewhere::{attention, strongest, votes};
pub use heads::{Attended, Heads, MAX_DIM, Pass, fits};
pub use memory::keep_freed_memory;
pub use product::{Bias, Destination, Geometry, Matrix, Numbers, NumbersMut, Products, Unit};
pub use threads::{OwnThreads, Threads, parallel};
#[cfg(target_arch = "x86_64")]
pub use {attention::attention, strongest::strongest, votes::votes};
