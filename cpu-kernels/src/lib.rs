#![doc = include_str!("../README.md")]
//!
//! # Structure
//! | file | what |
//! |---|---|
//! | `heads` | queries, keys and values in memory |
//! | `pack`, `packed` | their copies in the order in which the instruction reads them |
//! | `tile` | the product of 6 rows and 64 columns, and the exponential |
//! | `threads` | tasks on the threads that the caller lends |
//! | `attention`, `votes`, `strongest` | the three kernels; the map `[b, h, m, n]` is never stored |
//! | `ballot` | the vote that attention casts itself |
//! | `memory` | freed memory that the C library keeps |
//! | `elsewhere` | their signatures on other architectures |
//!
//! Work is cut by sizes, never by the number of threads, and sums over pieces run in a fixed order. A result
//! therefore does not depend on the number of threads.

mod cpu;
mod heads;
mod memory;
mod threads;

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod ballot;
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
mod votes;

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(test)]
mod tests;

pub use cpu::Cpu;
#[cfg(not(target_arch = "x86_64"))]
pub use elsewhere::{attention, strongest, votes};
pub use heads::{Attended, Heads, MAX_DIM, Pass, fits};
pub use memory::keep_freed_memory;
pub use threads::{OwnThreads, Threads};
#[cfg(target_arch = "x86_64")]
pub use {attention::attention, strongest::strongest, votes::votes};
