//! The two element types of the kernels: f32, and bf16 with f32 inside.

use atedm_cpu_kernels::{Cpu, Numbers, NumbersMut, Products, Threads};
use candle_core::{DType, Tensor, WithDType};
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

/// Rayon's pool, for the kernels of the other crate.
#[derive(Debug)]
struct Rayon;

impl Threads for Rayon {
    fn count(&self) -> usize {
        rayon::current_num_threads()
    }

    fn run(&self, threads: usize, work: &(dyn Fn() + Sync)) {
        rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| work());
            }
            work();
        });
    }
}

/// Products of this dtype, if this machine has them.
pub(crate) fn products(dtype: DType) -> Option<Products<'static>> {
    match dtype {
        DType::F32 => Products::of_f32(&Rayon),
        DType::BF16 => Products::of_bf16(&Rayon),
        _ => None,
    }
}

/// Attention in bf16, if this machine has it.
pub(crate) fn attention() -> Option<Cpu<'static>> {
    Cpu::detect(&Rayon)
}

/// An operation that has a version for each element type.
pub(crate) trait Operation {
    /// The version for `N`. The tensor has this dtype.
    fn run<N: Number>(self, x: &Tensor) -> candle_core::Result<Tensor>;
}

/// Runs an operation on a tensor in f32 or a half precision. f16 becomes f32 and back.
pub(crate) fn run(x: &Tensor, operation: impl Operation) -> candle_core::Result<Tensor> {
    match x.dtype() {
        DType::F32 => operation.run::<f32>(x),
        DType::BF16 => operation.run::<bf16>(x),
        dtype => operation.run::<f32>(&x.to_dtype(DType::F32)?)?.to_dtype(dtype),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_to_the_nearest_even() {
        for bits in (0..=u32::MAX).step_by(12_345) {
            let x = f32::from_bits(bits);
            let (found, right) = (<bf16 as Number>::round(x), bf16::from_f32(x));
            assert!(found.to_bits() == right.to_bits() || found.is_nan() && right.is_nan(), "{x}");
            assert!(right.is_nan() || right.single() == right.to_f32());
        }
    }
}
