//! Attention, votes and the argmax of similarity copy in bf16 on the CPU's own instructions (AVX512-BF16), on plain
//! slices; the map `[b, h, m, n]` is never stored.
//!
//! Found at run time ([`Cpu::detect`]); on other machines, and for heads that do not [`fit`](fits), the caller goes on
//! with libtorch's operations.
//!
//! | file | what |
//! |---|---|
//! | `heads` | where queries, keys and values lie |
//! | `pack` | their copies in the order in which the instruction reads them |
//! | `tile` | the product of 6 rows and 64 columns, and the exponential |
//! | `pool` | tasks on the threads that libtorch already has |
//! | `attention`, `votes`, `strongest` | the three kernels |
//!
//! Work is cut by sizes alone, never by the number of threads, and sums over pieces run in a fixed order: a result does
//! not depend on how many threads computed it.

pub(crate) mod attention;
pub(crate) mod heads;
mod pack;
mod pool;
pub(crate) mod strongest;
mod tile;
pub(crate) mod votes;

#[cfg(test)]
mod tests;

/// Proof that this machine has the instructions; the threads to use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    threads: usize,
}

impl Cpu {
    /// `None` where the instructions are missing.
    pub(crate) fn detect(threads: usize) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
        {
            return Some(Self { threads: threads.max(1) });
        }
        let _ = threads;
        None
    }
}

/// Whether the kernels take heads of this size.
pub(crate) fn fits(dim: usize) -> bool {
    (1..=heads::MAX_DIM).contains(&dim)
}
