//! The instructions that multiply, and the choice among them.

use crate::cpu::Level;

/// The instructions that multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Multiply-add of f32 (AVX-512). A bf16 becomes an f32 first.
    Fma,
    /// Products of pairs of bf16 (AVX512-BF16).
    Pairs,
    /// Products of tiles of bf16 (AMX).
    Tiles,
}

impl Unit {
    /// The level that it needs.
    pub(crate) fn level(self) -> Level {
        match self {
            Self::Fma => Level::Avx512,
            Self::Pairs => Level::Avx512Bf16,
            Self::Tiles => Level::Amx,
        }
    }

    /// The fastest unit for bf16 at this level, if there is one.
    ///
    /// The choice follows the kind of processor and not a measurement, so that two runs on one machine give the same bits.
    /// As measured on an Intel processor with AMX, tiles are 3 to 5 times as fast as f32, and pairs 0.7 times. AMD's
    /// processors take twice as many pairs as f32 in the same time.
    pub(crate) fn for_bf16(level: Level, forced: bool, amd: bool) -> Option<Self> {
        match level {
            Level::Plain | Level::Avx2 => None,
            Level::Avx512 => Some(Self::Fma),
            Level::Avx512Bf16 if forced || amd => Some(Self::Pairs),
            Level::Avx512Bf16 => Some(Self::Fma),
            Level::Amx => Some(Self::Tiles),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Level, Unit};

    #[test]
    fn pairs_where_they_pay_or_are_forced() {
        let chosen = |level, forced, amd| Unit::for_bf16(level, forced, amd);
        assert_eq!(chosen(Level::Avx512Bf16, false, true), Some(Unit::Pairs));
        assert_eq!(chosen(Level::Avx512Bf16, false, false), Some(Unit::Fma));
        assert_eq!(chosen(Level::Avx512Bf16, true, false), Some(Unit::Pairs));
        assert_eq!(chosen(Level::Amx, true, true), Some(Unit::Tiles));
        assert_eq!(chosen(Level::Avx512, true, true), Some(Unit::Fma));
        assert_eq!(chosen(Level::Avx2, true, true), None);
    }
}
