//! What this processor can do.

use std::sync::OnceLock;

use crate::Threads;

/// The instructions that the kernels may use. Each level has those of the levels before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// None of this crate's kernels: the caller's own operations run.
    Avx2,
    /// AVX-512 (F, BW, VL): products in f32.
    Avx512,
    /// AVX512-BF16: attention in bf16, and products of pairs.
    Avx512Bf16,
    /// AMX with bf16, where the system allows it: attention in bf16, and products, of tiles.
    Amx,
}

/// The environment variable that limits the level.
pub const LIMIT: &str = "ATEDM_CPU";

impl Level {
    /// All levels.
    pub const ALL: [Self; 4] = [Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The level of this process: the machine's, or that of the environment variable [`LIMIT`] if it is lower. It stays the
    /// same for the life of the process.
    pub fn here() -> Self {
        static HERE: OnceLock<Level> = OnceLock::new();
        *HERE.get_or_init(|| {
            let found = Self::of_machine();
            Self::limit().map_or(found, |limit| limit.min(found))
        })
    }

    /// The level that the environment variable [`LIMIT`] names, if it names one.
    pub fn limit() -> Option<Self> {
        Self::named(std::env::var(LIMIT).ok()?.trim())
    }

    /// The level of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    /// Its name: `avx2`, `avx512`, `avx512-bf16` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn of_machine() -> Self {
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        match (wide, is_x86_feature_detected!("avx512bf16")) {
            (false, _) => Self::Avx2,
            (true, false) => Self::Avx512,
            (true, true) if crate::amx::found() => Self::Amx,
            (true, true) => Self::Avx512Bf16,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_machine() -> Self {
        Self::Avx2
    }

    /// Whether AMD made the processor.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn amd() -> bool {
        // SAFETY: every x86-64 processor has this instruction.
        #[allow(unsafe_code, unused_unsafe)]
        let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
        vendor.ebx.to_le_bytes() == *b"Auth"
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn amd() -> bool {
        false
    }
}

/// Proof that this machine has AVX512-BF16 or AMX, with the threads to use.
#[derive(Debug, Clone, Copy)]
pub struct Cpu<'a> {
    #[cfg(target_arch = "x86_64")]
    pub(crate) level: Level,
    #[cfg(target_arch = "x86_64")]
    pub(crate) threads: &'a dyn Threads,
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) never: (std::convert::Infallible, std::marker::PhantomData<&'a ()>),
}

impl<'a> Cpu<'a> {
    /// The level of this process. `None` if the instructions are missing.
    pub fn detect(threads: &'a dyn Threads) -> Option<Self> {
        Self::with(Level::here(), threads)
    }

    /// This level. `None` if this process lacks it, or if the kernels of attention do not support it.
    #[cfg(target_arch = "x86_64")]
    pub fn with(level: Level, threads: &'a dyn Threads) -> Option<Self> {
        (Level::Avx512Bf16..=Level::here()).contains(&level).then_some(Self { level, threads })
    }

    /// Always `None`, because the kernels are written for x86.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn with(_level: Level, _threads: &'a dyn Threads) -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Level;

    #[test]
    fn levels_have_names() {
        for level in Level::ALL {
            assert_eq!(Level::named(level.name()), Some(level));
        }
        assert_eq!(Level::named("sse"), None);
        assert!(Level::here() <= Level::of_machine());
    }
}
