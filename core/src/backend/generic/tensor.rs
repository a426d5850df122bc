//! Bodies for [`Tensor`] and [`Indices`].

use crate::backend::{Indices, Tensor, dims, shape};
use crate::{DType, Error, Result};

/// [`Tensor::from_f32`]: it goes through bytes and a cast.
pub fn from_f32<T: Tensor>(values: &[f32], shape: &[usize], dtype: DType, device: &T::Device) -> Result<T> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    T::from_bytes(&bytes, DType::F32, shape, device)?.cast(dtype)
}

/// [`Tensor::to_f32`]: it goes through a cast and bytes.
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

/// [`Tensor::scatter_into`]: one gather from `[base | rows]`. The index of a replaced row points behind the base.
pub fn scatter_into<T: Tensor>(rows: &T, base: &T, at: &T::Indices) -> Result<T> {
    let [batch, n, _] = shape::scatter_into(&rows.shape(), &base.shape(), at.dims())?;
    let mut source: Vec<Vec<u32>> = vec![(0..n as u32).collect(); batch];
    for (row, places) in source.iter_mut().zip(at.to_host()?) {
        for (i, place) in places.into_iter().enumerate() {
            shape::index_below("scatter_into", place, n)?;
            row[place as usize] = (n + i) as u32;
        }
    }
    let source = T::Indices::from_host(&source, &base.device())?;
    T::concat(&[base, rows], 1)?.gather(1, &source)
}

/// [`Tensor::segment_mean`]: it sums along a tree of pairs.
///
/// In each round every segment with more than one row left adds its rows in pairs, in their order. The number of
/// rounds is the logarithm of the largest segment. Every addition has a fixed place, and only gathers move rows.
/// Row 0 of every round is zero. It is the partner of a single row, and it fills the shorter rows of a batch.
pub fn segment_mean<T: Tensor>(rows: &T, segments: &T::Indices, count: usize) -> Result<T> {
    const OP: &str = "segment_mean";
    let [batch, n, channels] = dims(rows, OP)?;
    if n == 0 || count == 0 || segments.dims() != (batch, n) {
        let expected = format!("[{batch}, {n}] segments of at least one row, of which there is at least one");
        let (got_batch, got_n) = segments.dims();
        return Err(Error::shape(OP, expected, [got_batch, got_n, count]));
    }
    let mut trees = Vec::with_capacity(batch);
    let mut lengths = Vec::with_capacity(batch * count);
    for row in segments.to_host()? {
        let tree = PairTree::new(row, count)?;
        lengths.extend(tree.open.iter().map(|list| list.len().max(1) as f32));
        trees.push(tree);
    }
    let (dtype, device) = (rows.dtype(), rows.device());
    let wide = dtype.accumulator();
    let zero = T::full(0.0, &[batch, 1, channels], wide, &device)?;
    let mut rounds = vec![T::concat(&[&zero, &rows.cast(wide)?], 1)?];
    let mut start = 0;
    while let Some(last) = rounds.last() {
        let width = last.shape()[1];
        let pairs: Vec<[Vec<u32>; 2]> = trees.iter_mut().map(|tree| tree.pair_up(start)).collect();
        let longest = pairs.iter().map(|[left, _]| left.len()).max().unwrap_or(0);
        if longest == 1 {
            break; // only the zero row is left
        }
        let [left, right] = [0, 1].map(|side| {
            let padded = pairs.iter().map(|pair| {
                let mut places = pair[side].clone();
                places.resize(longest, 0);
                places
            });
            T::Indices::from_host(&padded.collect::<Vec<_>>(), &device)
        });
        let added = last.gather(1, &left?)?.add(&last.gather(1, &right?)?)?;
        start += width;
        rounds.push(added);
    }
    let ends: Vec<Vec<u32>> = trees.into_iter().map(|tree| tree.ends).collect();
    let all = T::concat(&rounds.iter().collect::<Vec<_>>(), 1)?;
    let mut means = all.gather(1, &T::Indices::from_host(&ends, &device)?)?;
    if rounds.len() > 1 {
        means = means.div(&T::from_f32(&lengths, &[batch, count, 1], wide, &device)?)?;
    }
    means.cast(dtype)
}

/// The rows of each segment that remain to be added, in one batch row of [`segment_mean`].
struct PairTree {
    /// The places of these rows in the last round.
    open: Vec<Vec<u32>>,
    /// The place of each segment's sum among the rows of all rounds. 0, a zero row, stands for a segment without rows.
    ends: Vec<u32>,
}

impl PairTree {
    fn new(segments: Vec<u32>, count: usize) -> Result<Self> {
        let mut open: Vec<Vec<u32>> = vec![Vec::new(); count];
        for (place, segment) in segments.into_iter().enumerate() {
            shape::index_below("segment_mean", segment, count)?;
            open[segment as usize].push(place as u32 + 1);
        }
        Ok(Self { open, ends: vec![0; count] })
    }

    /// Plans one round. It returns the two rows that make each new row; the first new row is zero. A segment with one row
    /// left ends at its place in the last round. `start` is the place of that round's first row among the rows of all rounds.
    fn pair_up(&mut self, start: usize) -> [Vec<u32>; 2] {
        let (mut left, mut right) = (vec![0], vec![0]);
        for (list, end) in self.open.iter_mut().zip(&mut self.ends) {
            match list[..] {
                [] => {}
                [only] => {
                    *end = start as u32 + only;
                    list.clear();
                }
                _ => {
                    let first = left.len() as u32;
                    for pair in list.chunks(2) {
                        left.push(pair[0]);
                        right.push(pair.get(1).copied().unwrap_or(0));
                    }
                    *list = (first..left.len() as u32).collect();
                }
            }
        }
        [left, right]
    }
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
                shape::index_below("indices gather", i, row.len())?;
                Ok(row[i as usize])
            };
            at.iter().map(pick).collect()
        })
        .collect();
    I::from_host(&picked?, &indices.device())
}

/// [`Indices::concat`] on the host.
pub fn indices_concat<I: Indices>(parts: &[&I]) -> Result<I> {
    let first = parts.first().ok_or_else(|| shape::no_parts("indices concat"))?;
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
            shape::index_below("indices complement", i, n)?;
            present[i as usize] = true;
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

/// [`Indices::reshape`] on the host.
pub fn indices_reshape<I: Indices>(indices: &I, batch: usize, count: usize) -> Result<I> {
    let (from_batch, from_count) = indices.dims();
    if from_batch * from_count != batch * count {
        let expected = format!("{} entries", from_batch * from_count);
        return Err(Error::shape("indices reshape", expected, [batch, count]));
    }
    if count == 0 {
        return I::from_host(&vec![Vec::new(); batch], &indices.device());
    }
    let flat = indices.to_host()?.concat();
    let rows: Vec<Vec<u32>> = flat.chunks(count).map(<[u32]>::to_vec).collect();
    I::from_host(&rows, &indices.device())
}
