//! [`Tensor`] on `ndarray`.

use half::{bf16, f16};
use ndarray::{Axis, IxDyn, Slice};

use super::array::{self, Array, Element, mapped, pack, row_major};
use super::device::{NdDevice, NdIndices};
use super::value::{NdTensor, dispatch};
use super::{NAME, norm};
use crate::backend::shape::{self, elements};
use crate::{DType, Error, Partition, Result, Tensor};

fn unsupported<T>(dtype: DType) -> Result<T> {
    Err(Error::Unsupported { backend: NAME, op: format!("dtype {dtype} (only f32 and f64)") })
}

/// Checks the byte count and reads elements of `SIZE` bytes each.
fn read<const SIZE: usize, F: Element>(
    bytes: &[u8],
    stored: DType,
    shape: &[usize],
    element: impl Fn([u8; SIZE]) -> F,
) -> Result<NdTensor> {
    shape::from_bytes(bytes.len(), stored, shape)?;
    let (values, _) = bytes.as_chunks::<SIZE>();
    Ok(F::tensor(pack(values.iter().map(|&raw| element(raw)).collect(), shape, "from_bytes")?))
}

fn affine<F: Element>(array: &Array<F>, scale: f64, shift: f64) -> NdTensor {
    let (scale, shift) = (F::rounded(scale), F::rounded(shift));
    mapped(array, |x| x * scale + shift)
}

fn clamp_min<F: Element>(array: &Array<F>, least: f64) -> NdTensor {
    let least = F::rounded(least);
    mapped(array, |x| if x < least { least } else { x })
}

fn reshape<F: Element>(array: &Array<F>, shape: &[usize]) -> Result<NdTensor> {
    shape::reshape(array.shape(), shape)?;
    if array.is_standard_layout() {
        let same = array.clone().into_shape_with_order(IxDyn(shape));
        return same.map(F::tensor).map_err(|_| Error::shape("reshape", "a shape of the same size", shape));
    }
    Ok(F::tensor(pack(row_major(array).into_owned(), shape, "reshape")?))
}

fn concat<F: Element>(first: &Array<F>, parts: &[&NdTensor], axis: usize) -> Result<NdTensor> {
    let parts = parts.iter().map(|part| F::of(part, "concat")).collect::<Result<Vec<_>>>()?;
    let shapes: Vec<&[usize]> = parts.iter().map(|part| part.shape()).collect();
    let shape = shape::concat(&shapes, axis)?;
    let outer = array::Around::axis(first.shape(), axis, "concat")?.outer;
    let arrays: Vec<_> = parts.into_iter().map(row_major).collect();
    let mut out = Vec::with_capacity(elements(&shape, "concat")?);
    for o in 0..outer {
        for values in &arrays {
            let size = values.len() / outer;
            out.extend_from_slice(&values[o * size..(o + 1) * size]);
        }
    }
    Ok(F::tensor(pack(out, &shape, "concat")?))
}

impl Tensor for NdTensor {
    type Device = NdDevice;
    type Indices = NdIndices;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], _device: &NdDevice) -> Result<Self> {
        match stored {
            DType::F16 => read(bytes, stored, shape, |raw| f16::from_le_bytes(raw).to_f32()),
            DType::BF16 => read(bytes, stored, shape, |raw| bf16::from_le_bytes(raw).to_f32()),
            DType::F32 => read(bytes, stored, shape, f32::from_le_bytes),
            DType::F64 => read(bytes, stored, shape, f64::from_le_bytes),
        }
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::F32(array) => row_major(array).iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F64(array) => row_major(array).iter().flat_map(|x| x.to_le_bytes()).collect(),
        })
    }

    fn full(value: f64, shape: &[usize], dtype: DType, _device: &NdDevice) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32(pack(vec![value as f32; elements(shape, "full")?], shape, "full")?)),
            DType::F64 => Ok(Self::F64(pack(vec![value; elements(shape, "full")?], shape, "full")?)),
            half => unsupported(half),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
        }
    }

    fn shape(&self) -> Vec<usize> {
        dispatch!(self, array => array.shape().to_vec())
    }

    fn device(&self) -> NdDevice {
        NdDevice
    }

    fn cast(&self, to: DType) -> Result<Self> {
        match (self, to) {
            (Self::F32(_), DType::F32) | (Self::F64(_), DType::F64) => Ok(self.clone()),
            (Self::F32(array), DType::F64) => Ok(Self::F64(array.mapv(f64::from).into_shared())),
            (Self::F64(array), DType::F32) => Ok(Self::F32(array.mapv(|x| x as f32).into_shared())),
            (_, half) => unsupported(half),
        }
    }

    fn reshape(&self, shape: &[usize]) -> Result<Self> {
        dispatch!(self, array => reshape(array, shape))
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        shape::permute(&self.shape(), axes)?;
        Ok(dispatch!(self, array => array.clone().permuted_axes(IxDyn(axes)).into()))
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        shape::narrow(&self.shape(), axis, start, len)?;
        Ok(dispatch!(self, array => {
            let mut part = array.clone();
            part.slice_axis_inplace(Axis(axis), Slice::from(start..start + len));
            part.into()
        }))
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        match parts.first() {
            Some(first) => dispatch!(first, array => concat(array, parts, axis)),
            None => Err(shape::no_parts("concat")),
        }
    }

    fn add(&self, other: &Self) -> Result<Self> {
        dispatch!(self, array => array::zip(array, other, "add", |a, b| a + b))
    }

    fn sub(&self, other: &Self) -> Result<Self> {
        dispatch!(self, array => array::zip(array, other, "sub", |a, b| a - b))
    }

    fn mul(&self, other: &Self) -> Result<Self> {
        dispatch!(self, array => array::zip(array, other, "mul", |a, b| a * b))
    }

    fn div(&self, other: &Self) -> Result<Self> {
        dispatch!(self, array => array::zip(array, other, "div", |a, b| a / b))
    }

    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        Ok(dispatch!(self, array => affine(array, scale, shift)))
    }

    fn exp(&self) -> Result<Self> {
        Ok(dispatch!(self, array => mapped(array, |x| x.exp())))
    }

    fn ln(&self) -> Result<Self> {
        Ok(dispatch!(self, array => mapped(array, |x| x.ln())))
    }

    fn sqrt(&self) -> Result<Self> {
        Ok(dispatch!(self, array => mapped(array, |x| x.sqrt())))
    }

    fn clamp_min(&self, least: f64) -> Result<Self> {
        Ok(dispatch!(self, array => clamp_min(array, least)))
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::F32(left), _) => Ok(array::matmul(left, f32::of(other, "matmul")?)?.into()),
            (Self::F64(left), _) => Ok(array::matmul(left, f64::of(other, "matmul")?)?.into()),
        }
    }

    fn softmax(&self) -> Result<Self> {
        Ok(dispatch!(self, array => norm::softmax(array)?.into()))
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        Ok(dispatch!(self, array => array::sum(array, axis)?.into()))
    }

    fn max(&self, axis: usize) -> Result<Self> {
        Ok(dispatch!(self, array => array::max(array, axis)?.into()))
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        let (kept, pruned) = dispatch!(self, array => array::split_top_k(array, kept)?);
        Ok(Partition { kept, pruned })
    }

    fn argmax_rows(&self) -> Result<NdIndices> {
        dispatch!(self, array => array::argmax_rows(array))
    }

    fn gather(&self, axis: usize, at: &NdIndices) -> Result<Self> {
        Ok(dispatch!(self, array => array::gather(array, axis, at)?.into()))
    }
}

#[cfg(test)]
mod tests;
