//! Level 1: the tensor operations of the pruning algorithms.

use crate::backend::generic;
use crate::{DType, Error, Result};

/// A dense array on a device, with the operations of the pruning algorithms.
///
/// # Conventions
/// - Only axes of length 1 broadcast, and both operands have the same number of axes. Reductions keep their axis
///   with length 1.
/// - No operation promotes a dtype silently. Operands of different dtypes give an [`Error::DType`].
/// - Softmax and the attention graph are computed in [`DType::accumulator`] of the tokens' dtype.
/// - Among equal scores the lower index comes first, on every backend. A NaN score gives an [`Error::NotFinite`].
/// - Every row of a batch keeps the same number of tokens.
/// - `clone` copies a handle, and no operation works in place.
/// - Every operation checks its shapes and returns an [`Error`]. None panics.
pub trait Tensor: Clone + Send + std::fmt::Debug + 'static {
    /// The place of tensors.
    type Device: Clone + Send + std::fmt::Debug + 'static;
    /// Index lists `[batch, count]` on the same device.
    type Indices: Indices<Device = Self::Device>;

    // ---- host input and output ---------------------------------------------------------------------------------

    /// Makes a tensor from little-endian, row-major bytes of dtype `stored`. `bytes.len()` must fit the shape.
    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], device: &Self::Device) -> Result<Self>;

    /// The elements as little-endian bytes, row-major, in this tensor's dtype.
    fn to_bytes(&self) -> Result<Vec<u8>>;

    /// A tensor of `shape` filled with `value`.
    fn full(value: f64, shape: &[usize], dtype: DType, device: &Self::Device) -> Result<Self>;

    /// A tensor of dtype `dtype` from host values, row-major.
    fn from_f32(values: &[f32], shape: &[usize], dtype: DType, device: &Self::Device) -> Result<Self> {
        generic::from_f32(values, shape, dtype, device)
    }

    /// The elements as f32, row-major.
    fn to_f32(&self) -> Result<Vec<f32>> {
        generic::to_f32(self)
    }

    // ---- layout ------------------------------------------------------------------------------------------------

    /// The element type.
    fn dtype(&self) -> DType;
    /// The shape.
    fn shape(&self) -> Vec<usize>;
    /// The device.
    fn device(&self) -> Self::Device;
    /// The same values in another dtype. With the same dtype this copies the handle.
    fn cast(&self, to: DType) -> Result<Self>;
    /// The same elements in row-major order under another shape.
    fn reshape(&self, shape: &[usize]) -> Result<Self>;
    /// The axes in the order `axes`, as in numpy's transpose.
    fn permute(&self, axes: &[usize]) -> Result<Self>;
    /// The `len` entries of `axis` from `start`.
    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self>;
    /// The parts in sequence along `axis`.
    fn concat(parts: &[&Self], axis: usize) -> Result<Self>;

    // ---- arithmetic --------------------------------------------------------------------------------------------

    /// `self + other`, length-1 axes broadcast.
    fn add(&self, other: &Self) -> Result<Self>;
    /// `self - other`, length-1 axes broadcast.
    fn sub(&self, other: &Self) -> Result<Self>;
    /// `self * other`, length-1 axes broadcast.
    fn mul(&self, other: &Self) -> Result<Self>;
    /// `self / other`, length-1 axes broadcast.
    fn div(&self, other: &Self) -> Result<Self>;
    /// `self * scale + shift`.
    fn affine(&self, scale: f64, shift: f64) -> Result<Self>;
    /// Element-wise exponential.
    fn exp(&self) -> Result<Self>;
    /// Element-wise natural logarithm.
    fn ln(&self) -> Result<Self>;
    /// Element-wise square root.
    fn sqrt(&self) -> Result<Self>;
    /// Element-wise `max(self, least)`; NaN stays NaN.
    fn clamp_min(&self, least: f64) -> Result<Self>;
    /// `[.., m, k] x [.., k, n] -> [.., m, n]` with 2 to 4 axes. The leading axes must be equal.
    fn matmul(&self, other: &Self) -> Result<Self>;
    /// Softmax over the last axis. It is computed in the accumulator dtype and returned in this tensor's dtype.
    fn softmax(&self) -> Result<Self> {
        generic::softmax(self)
    }

    // ---- reductions (keep the axis) ----------------------------------------------------------------------------

    /// Sum over `axis`.
    fn sum(&self, axis: usize) -> Result<Self>;
    /// Maximum over `axis`.
    fn max(&self, axis: usize) -> Result<Self>;
    /// Mean over `axis`.
    fn mean(&self, axis: usize) -> Result<Self> {
        let n = axis_len(self, axis, "mean")?;
        self.sum(axis)?.affine(1.0 / n as f64, 0.0)
    }

    // ---- choice and movement of tokens -------------------------------------------------------------------------

    /// Splits the scores `[batch, n]` into the `kept` highest and the rest, both ascending by position.
    /// Among equal scores the lower index is kept first. `-0.0 == 0.0`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a score is NaN. [`Error::Shape`] if `kept` is 0 or above `n`.
    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>>;

    /// For `[batch, n, m]`: the row with the largest value, for each batch and column of the last axis,
    /// `[batch, m]`. On ties the lowest row wins.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a value is NaN.
    fn argmax_rows(&self) -> Result<Self::Indices>;

    /// Takes entries `at` (`[batch, count]`) of `axis` (1 or above), row by row of axis 0:
    /// `out[b, .., i, ..] = self[b, .., at[b, i], ..]`.
    fn gather(&self, axis: usize, at: &Self::Indices) -> Result<Self>;

    /// Returns `base` (`[batch, n, channels]`) with row `at[b, i]` replaced by `self[b, i]`
    /// (`[batch, count, channels]`). `at` must not contain repeats.
    fn scatter_into(&self, base: &Self, at: &Self::Indices) -> Result<Self> {
        generic::scatter_into(self, base, at)
    }

    /// The mean of the rows of each segment, for example of tokens that are merged. `self` is `[batch, n, channels]`.
    /// `segments` (`[batch, n]`) gives each row's segment, below `count`. The result is `[batch, count, channels]`,
    /// with zeros for a segment without rows. Sums run in the accumulator dtype, in one fixed order.
    ///
    /// # Errors
    /// [`Error::Shape`] when a segment is not below `count`, or when there are no rows or no segments.
    fn segment_mean(&self, segments: &Self::Indices, count: usize) -> Result<Self> {
        generic::segment_mean(self, segments, count)
    }
}

/// Index lists `[batch, count]`: `batch` rows of equal length. Each entry is below the length of its axis.
pub trait Indices: Clone + Send + std::fmt::Debug + 'static {
    /// The place of the lists.
    type Device: Clone + Send;

    /// Makes the lists from host rows, which must have equal lengths.
    fn from_host(rows: &[Vec<u32>], device: &Self::Device) -> Result<Self>;
    /// Copies the lists to host rows.
    fn to_host(&self) -> Result<Vec<Vec<u32>>>;
    /// The device.
    fn device(&self) -> Self::Device;
    /// `(batch, count)`.
    fn dims(&self) -> (usize, usize);

    /// `out[b, i] = self[b, at[b, i]]`: selects from a selection.
    fn gather(&self, at: &Self) -> Result<Self> {
        generic::indices_gather(self, at)
    }
    /// The lists in sequence, in each row.
    fn concat(parts: &[&Self]) -> Result<Self> {
        generic::indices_concat(parts)
    }
    /// The indices of `0..n` that are not in the row, ascending.
    fn complement(&self, n: usize) -> Result<Self> {
        generic::indices_complement(self, n)
    }
    /// The inverse permutation of each row. Each row must be a permutation of `0..count`.
    fn inverse(&self) -> Result<Self> {
        generic::indices_inverse(self)
    }
    /// The same entries, row after row, as `batch` lists of `count`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of entries differs.
    fn reshape(&self, batch: usize, count: usize) -> Result<Self> {
        generic::indices_reshape(self, batch, count)
    }
}

/// The two halves of a selection over `n` tokens. Every index of `0..n` is in exactly one half, and both ascend.
#[derive(Debug, Clone)]
pub struct Partition<T: Tensor> {
    /// The tokens that stay, `[batch, kept]`.
    pub kept: T::Indices,
    /// The tokens that are pruned, `[batch, n - kept]`.
    pub pruned: T::Indices,
}

impl<T: Tensor> Partition<T> {
    /// The partition of `0..n` with these kept rows. Each row must be strictly ascending and below `n`.
    ///
    /// # Errors
    /// [`Error::Config`] with field `kept` when a row is not valid.
    pub fn from_kept(rows: &[Vec<u32>], n: usize, device: &T::Device) -> Result<Self> {
        for row in rows {
            if row.windows(2).any(|w| w[0] >= w[1]) || row.last().is_some_and(|&last| last as usize >= n) {
                return Err(Error::config("kept", format!("expected strictly ascending indices below {n}")));
            }
        }
        let kept = T::Indices::from_host(rows, device)?;
        let pruned = kept.complement(n)?;
        Ok(Self { kept, pruned })
    }

    /// The number of tokens in both halves.
    pub fn tokens(&self) -> usize {
        self.kept.dims().1 + self.pruned.dims().1
    }
}

/// The length of `axis`, or an [`Error::Shape`] that names `op`.
pub fn axis_len<T: Tensor>(tensor: &T, axis: usize, op: &'static str) -> Result<usize> {
    let shape = tensor.shape();
    shape.get(axis).copied().ok_or_else(|| Error::shape(op, format!("more than {axis} axes"), shape))
}

/// The shape as an array of `N` axes, or an [`Error::Shape`] that names `op`.
pub fn dims<const N: usize, T: Tensor>(tensor: &T, op: &'static str) -> Result<[usize; N]> {
    let shape = tensor.shape();
    <[usize; N]>::try_from(shape).map_err(|got| Error::shape(op, format!("{N} axes"), got))
}
