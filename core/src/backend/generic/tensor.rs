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

/// [`Tensor::segment_mean`]: a tree of pairs.
///
/// In each round the rows of a segment, in their order, are added two by two, until one is left: rounds are the
/// logarithm of the largest segment, every addition has a fixed place, and nothing but gathers moves a row.
pub fn segment_mean<T: Tensor>(rows: &T, segments: &T::Indices, count: usize) -> Result<T> {
    const OP: &str = "segment_mean";
    let [batch, n, _] = dims(rows, OP)?;
    if n == 0 || count == 0 || segments.dims() != (batch, n) {
        let expected = format!("[{batch}, {n}] segments of at least one row, of which there is at least one");
        let (got_batch, got_n) = segments.dims();
        return Err(Error::shape(OP, expected, [got_batch, got_n, count]));
    }
    let mut members = Vec::with_capacity(batch);
    for row in segments.to_host()? {
        let mut lists = vec![Vec::new(); count];
        for (place, segment) in row.into_iter().enumerate() {
            let list: Option<&mut Vec<u32>> = lists.get_mut(segment as usize);
            list.ok_or_else(|| out_of_range(OP, segment, count))?.push(place as u32);
        }
        members.push(lists);
    }
    let lengths = members.iter().flatten().map(Vec::len).collect::<Vec<_>>();
    let (dtype, device) = (rows.dtype(), rows.device());
    let column =
        |values: &[f32], len: usize| T::from_f32(values, &[batch, len, 1], dtype.accumulator(), &device);
    let mut sums = rows.cast(dtype.accumulator())?;
    while members.iter().flatten().any(|list| list.len() > 1) {
        let (pairs, shares) = pair_up(&mut members);
        let [left, right] = pairs.map(|places| T::Indices::from_host(&places, &device));
        let added = sums.gather(1, &left?)?.add(&sums.gather(1, &right?)?)?;
        sums = added.mul(&column(&shares, shares.len() / batch)?)?;
    }
    let place = |list: &Vec<u32>| list.first().copied().unwrap_or(0);
    let places: Vec<Vec<u32>> = members.iter().map(|lists| lists.iter().map(place).collect()).collect();
    sums = sums.gather(1, &T::Indices::from_host(&places, &device)?)?;
    if lengths.contains(&0) {
        let present: Vec<f32> = lengths.iter().map(|&len| f32::from(u8::from(len > 0))).collect();
        sums = sums.mul(&column(&present, count)?)?;
    }
    if lengths.iter().any(|&len| len > 1) {
        let lengths: Vec<f32> = lengths.iter().map(|&len| len.max(1) as f32).collect();
        sums = sums.div(&column(&lengths, count)?)?;
    }
    sums.cast(dtype)
}

/// One round of additions: for each new row the two old ones that are added (one row alone is added to itself) and
/// the factor afterwards (a half for one alone, which is exact). `members` become places among the new rows.
fn pair_up(members: &mut [Vec<Vec<u32>>]) -> ([Vec<Vec<u32>>; 2], Vec<f32>) {
    let mut pairs = [Vec::new(), Vec::new()];
    let mut shares = Vec::new();
    let longest = |lists: &Vec<Vec<u32>>| lists.iter().map(|list| list.len().div_ceil(2)).sum::<usize>();
    let width = members.iter().map(longest).max().unwrap_or(0);
    for lists in members {
        let (mut left, mut right, mut share) = (Vec::new(), Vec::new(), Vec::new());
        for list in lists {
            let start = left.len() as u32;
            for pair in list.chunks(2) {
                left.push(pair[0]);
                right.push(pair[pair.len() - 1]);
                share.push(if pair.len() == 2 { 1.0 } else { 0.5 });
            }
            *list = (start..left.len() as u32).collect();
        }
        // Rows of a batch have the same length: what is missing repeats the first row, and nobody reads it.
        left.resize(width, 0);
        right.resize(width, 0);
        share.resize(width, 0.5);
        pairs[0].push(left);
        pairs[1].push(right);
        shares.extend(share);
    }
    (pairs, shares)
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
