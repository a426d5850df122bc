//! The two element types of the kernels: f32, and bf16 with f32 inside.

use atedm_cpu_kernels::{Numbers, NumbersMut};
use candle_core::WithDType;
use half::bf16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;

/// A number in memory. Kernels read it as f32, and round a result once.
pub(crate) trait Number: WithDType {
    /// The number as f32, exactly.
    fn single(self) -> f32;
    /// The nearest number of this type.
    fn round(x: f32) -> Self;
    /// So many zeros. The system gives them, and no loop writes them.
    fn zeros(len: usize) -> Vec<Self>;
    /// Numbers for the kernels of the other crate.
    fn numbers(of: &[Self]) -> Numbers<'_>;
    /// As [`Self::numbers`], to write.
    fn numbers_mut(of: &mut [Self]) -> NumbersMut<'_>;
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }

    #[inline(always)]
    fn round(x: f32) -> Self {
        x
    }

    fn zeros(len: usize) -> Vec<Self> {
        vec![0.0; len]
    }

    fn numbers(of: &[Self]) -> Numbers<'_> {
        Numbers::F32(of)
    }

    fn numbers_mut(of: &mut [Self]) -> NumbersMut<'_> {
        NumbersMut::F32(of)
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// The even one of two that are equally near. It has no branch, so loops are vectorised. NaN stays NaN.
    #[inline(always)]
    fn round(x: f32) -> Self {
        let bits = x.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let nan = bits >> 16 | 0x40;
        Self::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { nearest } as u16)
    }

    fn zeros(len: usize) -> Vec<Self> {
        vec![0u16; len].reinterpret_into()
    }

    fn numbers(of: &[Self]) -> Numbers<'_> {
        Numbers::Bf16(of.reinterpret_cast())
    }

    fn numbers_mut(of: &mut [Self]) -> NumbersMut<'_> {
        NumbersMut::Bf16(of.reinterpret_cast_mut())
    }
}
