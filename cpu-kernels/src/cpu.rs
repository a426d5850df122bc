//! What this processor can do.

use std::sync::OnceLock;

use crate::Threads;

/// The instructions that the kernels may use. Each level has those of the levels before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// None of this crate's kernels: the caller's own operations run.
    Plain,
    /// AVX2 and FMA: attention in f32.
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
    pub const ALL: [Self; 5] = [Self::Plain, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

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

    /// Its name: `plain`, `avx2`, `avx512`, `avx512-bf16` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn of_machine() -> Self {
        let fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let wide = fused
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        match (wide, is_x86_feature_detected!("avx512bf16")) {
            (false, _) if fused => Self::Avx2,
            (false, _) => Self::Plain,
            (true, false) => Self::Avx512,
            (true, true) if crate::amx::found() => Self::Amx,
            (true, true) => Self::Avx512Bf16,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_machine() -> Self {
        Self::Plain
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

/// Proof that this machine has the instructions of attention's kernels, with the threads to use.
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
    /// For operands in f32. `None` below [`Level::Avx2`].
    pub fn of_f32(threads: &'a dyn Threads) -> Option<Self> {
        Self::with(Level::here(), threads)
    }

    /// For operands in bf16 or f32. `None` below [`Level::Avx512Bf16`].
    pub fn of_bf16(threads: &'a dyn Threads) -> Option<Self> {
        if Level::here() < Level::Avx512Bf16 { None } else { Self::of_f32(threads) }
    }

    /// This level. `None` if this process lacks it, or if it has no kernels of attention.
    #[cfg(target_arch = "x86_64")]
    pub fn with(level: Level, threads: &'a dyn Threads) -> Option<Self> {
        (Level::Avx2..=Level::here()).contains(&level).then_some(Self { level, threads })
    }

    /// Always `None`, because the kernels are written for x86.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn with(_level: Level, _threads: &'a dyn Threads) -> Option<Self> {
        None
    }

    /// Panics below [`Level::Avx512Bf16`]. Only a bug in the caller can cause this.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn for_bf16(self) -> Self {
        assert!(self.level >= Level::Avx512Bf16, "kernels for bf16");
        self
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
