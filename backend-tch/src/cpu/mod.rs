//! Attention, votes and the argmax of similarity copy in bf16 on plain slices. They use the CPU's own instructions
//! (AVX512-BF16). The map `[b, h, m, n]` is never stored.
//!
//! [`Cpu::detect`] looks for the instructions at run time. On other machines, and for heads that do not
//! [`fit`](fits), the caller uses libtorch's operations.
//!
//! | file | what |
//! |---|---|
//! | `heads` | queries, keys and values in memory |
//! | `pack`, `packed` | their copies in the order in which the instruction reads them |
//! | `tile` | the product of 6 rows and 64 columns, and the exponential |
//! | `pool` | tasks on the threads that libtorch already has |
//! | `attention`, `votes`, `strongest` | the three kernels |
//! | `ballot` | the vote that attention casts itself |
//! | `elsewhere` | their signatures on other architectures |
//!
//! Work is cut by sizes, never by the number of threads, and sums over pieces run in a fixed order. A result
//! therefore does not depend on the number of threads.

mod heads;

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod ballot;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(target_arch = "x86_64")]
mod pool;
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

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use elsewhere::{attention, strongest, votes};
pub(crate) use heads::{Attended, Heads, Pass, fits};
#[cfg(target_arch = "x86_64")]
pub(crate) use {attention::attention, strongest::strongest, votes::votes};

/// Proof that this machine has the instructions, with the number of threads to use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    #[cfg(target_arch = "x86_64")]
    threads: usize,
    #[cfg(not(target_arch = "x86_64"))]
    never: std::convert::Infallible,
}

impl Cpu {
    /// `None` if the instructions are missing.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn detect(threads: usize) -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16");
        has.then(|| Self { threads: threads.max(1) })
    }

    /// Always `None`, because the kernels are written for x86.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn detect(_threads: usize) -> Option<Self> {
        None
    }
}
