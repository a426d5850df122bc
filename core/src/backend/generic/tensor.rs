//! Bodies for [`Tensor`] and [`Indices`].

use crate::backend::{Indices, Tensor, dims};
use crate::{DType, Error, Result};

/// [`Tensor::from_f32`]: through bytes and a cast.
pub fn from_f32<T: Tensor>(values: &[f32], shape: &[usize], dtype: DType, device: &T::Device) -> Result<T> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    T::from_bytes(&bytes, DType::F32, shape, device)?.cast(dtype)
}

/// [`Tensor::to_f32`]: through a cast and bytes.
pub fn to_f32<T: Tensor>(tensor: &T) -> Result<Vec<f32>> {
    let bytes = tensor.cast(DType::F32)?.to_bytes()?;
    Ok(bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect())
}

/// [`Tensor::softmax`]: `exp(x − max) / Σ exp(x − max)` over the last axis, in the accumulator dtype.
pub fn softmax<T: Tensor>(logits: &T) -> Result<T> {
    let dtype = logits.dtype();
    let axis =
        logits.shape().len().checked_sub(1).ok_or_else(|| Error::shape("softmax", "at least 1 axis", []))?;
    let wide = logits.cast(dtype.accumulator())?;
    let exponentials = wide.sub(&wide.max(axis)?)?.exp()?;
    exponentials.div(&exponentials.sum(axis)?)?.cast(dtype)
}

/// [`Tensor::scatter_into`]: one gather from `[base | rows]`, where a replaced row points behind the base.
pub fn scatter_into<T: Tensor>(rows: &T, base: &T, at: &T::Indices) -> Result<T> {
    let [batch, n, channels] = dims(base, "scatter_into")?;
    let shape = rows.shape();
    let (_, count) = at.dims();
    if shape != [batch, count, channels] || at.dims().0 != batch {
        return Err(Error::shape("scatter_into", format!("rows [{batch}, {count}, {channels}]"), shape));
    }
    let mut source: Vec<Vec<u32>> = vec![(0..n as u32).collect(); batch];
    for (row, places) in source.iter_mut().zip(at.to_host()?) {
        for (i, place) in places.into_iter().enumerate() {
            *row.get_mut(place as usize).ok_or_else(|| out_of_range("scatter_into", place, n))? =
                (n + i) as u32;
        }
    }
    let source = T::Indices::from_host(&source, &base.device())?;
    T::concat(&[base, rows], 1)?.gather(1, &source)
}

/// [`Indices::gather`] on the host.
pub fn indices_gather<I: Indices>(indices: &I, at: &I) -> Result<I> {
    let rows = indices.to_host()?;
    let at = at.to_host()?;
    if rows.len() != at.len() {
        return Err(Error::shape("indices gather", format!("{} rows", rows.len()), [at.len()]));
    }
    let picked: Result<Vec<Vec<u32>>> = rows
        .iter()
        .zip(&at)
        .map(|(row, at)| {
            let pick = |&i: &u32| {
                row.get(i as usize).copied().ok_or_else(|| out_of_range("indices gather", i, row.len()))
            };
            at.iter().map(pick).collect()
        })
        .collect();
    I::from_host(&picked?, &indices.device())
}

/// [`Indices::concat`] on the host.
pub fn indices_concat<I: Indices>(parts: &[&I]) -> Result<I> {
    let Some(first) = parts.first() else {
        return Err(Error::shape("indices concat", "at least one part", []));
    };
    let mut rows = first.to_host()?;
    for part in &parts[1..] {
        let more = part.to_host()?;
        if more.len() != rows.len() {
            return Err(Error::shape("indices concat", format!("{} rows", rows.len()), [more.len()]));
        }
        for (row, tail) in rows.iter_mut().zip(more) {
            row.extend(tail);
        }
    }
    I::from_host(&rows, &first.device())
}

/// [`Indices::complement`] on the host.
pub fn indices_complement<I: Indices>(indices: &I, n: usize) -> Result<I> {
    let mut rows = Vec::new();
    for row in indices.to_host()? {
        let mut present = vec![false; n];
        for i in row {
            *present.get_mut(i as usize).ok_or_else(|| out_of_range("indices complement", i, n))? = true;
        }
        rows.push((0..n as u32).filter(|&i| !present[i as usize]).collect());
    }
    I::from_host(&rows, &indices.device())
}

/// [`Indices::inverse`] on the host.
pub fn indices_inverse<I: Indices>(indices: &I) -> Result<I> {
    let mut rows = Vec::new();
    for row in indices.to_host()? {
        let mut inverse = vec![u32::MAX; row.len()];
        for (i, &place) in row.iter().enumerate() {
            let slot = inverse.get_mut(place as usize).filter(|slot| **slot == u32::MAX);
            *slot.ok_or_else(|| Error::shape("indices inverse", "a permutation", [row.len()]))? = i as u32;
        }
        rows.push(inverse);
    }
    I::from_host(&rows, &indices.device())
}

fn out_of_range(op: &'static str, index: u32, len: usize) -> Error {
    Error::shape(op, format!("indices below {len}, got {index}"), [len])
}
