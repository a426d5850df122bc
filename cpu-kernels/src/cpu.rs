//! What this processor can do.

use crate::Threads;

/// Proof that this machine has AVX512-BF16, with the threads to use.
#[derive(Debug, Clone, Copy)]
pub struct Cpu<'a> {
    #[cfg(target_arch = "x86_64")]
    pub(crate) threads: &'a dyn Threads,
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) never: (std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

impl<'a> Cpu<'a> {
    /// `None` if the instructions are missing.
    #[cfg(target_arch = "x86_64")]
    pub fn detect(threads: &'a dyn Threads) -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self { threads })
    }

    /// Always `None`, because the kernels are written for x86.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect(_threads: &'a dyn Threads) -> Option<Self> {
        None
    }
}
