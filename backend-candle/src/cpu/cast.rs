//! Conversions between f32 and the half precisions, split over the pool.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::elementwise::CHUNK;
use super::math::vectorised;
use super::number::Number;
use super::pool::each;
use super::view;

/// The tensor in another dtype, rounded to the nearest, ties to even. Candle converts what the kernels do not take.
pub(crate) fn cast(x: &Tensor, to: DType) -> Result<Tensor> {
    if x.dtype() == to || !x.is_contiguous() || !view::takes(&[x]) {
        return x.to_dtype(to);
    }
    let (storage, layout) = x.storage_and_layout();
    let (start, len) = (layout.start_offset(), layout.shape().elem_count());
    let all = start..start + len;
    match (&*storage, to) {
        (Storage::Cpu(CpuStorage::F16(from)), DType::F32) => {
            let values = converted(from.get(all), 0.0, |from, to| from.convert_to_f32_slice(to));
            Tensor::from_vec(values, x.dims(), &Device::Cpu)
        }
        (Storage::Cpu(CpuStorage::BF16(from)), DType::F32) => {
            Tensor::from_vec(converted(from.get(all), 0.0, widen), x.dims(), &Device::Cpu)
        }
        (Storage::Cpu(CpuStorage::F32(from)), DType::F16) => {
            let values = converted(from.get(all), f16::ZERO, |from, to| to.convert_from_f32_slice(from));
            Tensor::from_vec(values, x.dims(), &Device::Cpu)
        }
        (Storage::Cpu(CpuStorage::F32(from)), DType::BF16) => {
            Tensor::from_vec(converted(from.get(all), bf16::ZERO, shorten), x.dims(), &Device::Cpu)
        }
        _ => x.to_dtype(to),
    }
}

/// The tensor in f32, for a product. If its last two axes are swapped in memory, they stay so: a product reads any strides.
pub(crate) fn operand(x: &Tensor) -> Result<Tensor> {
    match x.t() {
        Ok(swapped) if !x.is_contiguous() && swapped.is_contiguous() => cast(&swapped, DType::F32)?.t(),
        _ => cast(x, DType::F32),
    }
}

/// A tensor of `shape` and `dtype` on the CPU from f32 values.
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu).and_then(|x| cast(&x, dtype))
}

/// `convert` of pieces of `from`. Without elements there is nothing to convert.
fn converted<A: Sync, B: Copy + Send + Sync>(
    from: Option<&[A]>,
    zero: B,
    convert: impl Fn(&[A], &mut [B]) + Sync,
) -> Vec<B> {
    let from = from.unwrap_or_default();
    let mut to = vec![zero; from.len()];
    each(to.chunks_mut(CHUNK).zip(from.chunks(CHUNK)), |(to, from)| convert(from, to));
    to
}

fn widen(from: &[bf16], to: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.single();
            }
        },
    );
}

fn shorten(from: &[f32], to: &mut [bf16]) {
    vectorised(
        #[inline(always)]
        || {
            for (to, from) in to.iter_mut().zip(from) {
                *to = bf16::round(*from);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of a tensor with NaN as a word, which equals itself.
    fn words(x: &Tensor) -> Vec<String> {
        let wide = x.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        wide.iter().map(|value| if value.is_nan() { "nan".into() } else { format!("{value:?}") }).collect()
    }

    #[test]
    fn every_value_converts_as_in_candle() {
        let cpu = Device::Cpu;
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        // values at, beside and between those of the half precisions, infinities, NaN with the least payload
        let singles: Vec<f32> = (0..=u16::MAX)
            .flat_map(|bits| {
                [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001].map(|low| u32::from(bits) << 16 | low)
            })
            .map(f32::from_bits)
            .collect();
        for (x, to) in [
            (Tensor::new(halves, &cpu).unwrap(), DType::F32),
            (Tensor::new(brains, &cpu).unwrap(), DType::F32),
            (Tensor::new(singles.clone(), &cpu).unwrap(), DType::F16),
            (Tensor::new(singles, &cpu).unwrap(), DType::BF16),
        ] {
            for x in [x.clone(), x.narrow(0, 3, 1000).unwrap(), x.narrow(0, 5, 0).unwrap()] {
                assert_eq!(
                    words(&cast(&x, to).unwrap()),
                    words(&x.to_dtype(to).unwrap()),
                    "{:?} to {to:?}",
                    x.dtype()
                );
            }
        }
    }
}
