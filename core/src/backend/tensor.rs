//! Level 1: what the pruning algorithms need of a tensor.

use crate::backend::generic;
use crate::{DType, Error, Result};

/// A dense array on some device, as the pruning algorithms need it.
///
/// # Conventions
/// - Only length-1 axes broadcast, and both operands have the same number of axes; reductions keep the axis (length 1).
/// - No dtype is promoted silently: operands of different dtypes are an [`Error::DType`].
/// - Softmax and everything about the attention graph is computed in [`DType::accumulator`], whatever the tokens are.
/// - Equal scores keep the lower index first, on every backend; a NaN score is an [`Error::NotFinite`], never an order.
/// - Kept counts are the same in every row of a batch.
/// - `clone` copies a handle, and no operation works in place.
/// - Every operation checks its shapes and returns an [`Error`]; none panics.
pub trait Tensor: Clone + Send + std::fmt::Debug + 'static {
    /// Where tensors live.
    type Device: Clone + Send + std::fmt::Debug + 'static;
    /// Index lists `[batch, count]` on the same device.
    type Indices: Indices<Device = Self::Device>;

    // ---- host input and output ---------------------------------------------------------------------------------

    /// A tensor from little-endian bytes of dtype `stored`, row-major; `bytes.len()` must be the shape's size.
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
    /// The same values in another dtype (a handle's copy if it is already that one).
    fn cast(&self, to: DType) -> Result<Self>;
    /// The same elements in row-major order under another shape.
    fn reshape(&self, shape: &[usize]) -> Result<Self>;
    /// The axes in the order `axes` (as numpy's transpose).
    fn permute(&self, axes: &[usize]) -> Result<Self>;
    /// `len` entries of `axis` from `start`.
    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self>;
    /// The parts one after the other along `axis`.
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
    /// `[.., m, k] x [.., k, n] -> [.., m, n]`; leading axes equal, 2 to 4 axes.
    fn matmul(&self, other: &Self) -> Result<Self>;
    /// Softmax over the last axis, computed in the accumulator dtype, returned in this tensor's.
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
    /// [`Error::NotFinite`] if a score is NaN; [`Error::Shape`] if `kept` is 0 or above `n`.
    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>>;

    /// `[batch, n, m]` → for each batch and column of the last axis the row with the largest value: `[batch, m]`; the lowest on ties.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a value is NaN.
    fn argmax_rows(&self) -> Result<Self::Indices>;

    /// Takes entries `at` (`[batch, count]`) of `axis` (1 or above), row by row of axis 0:
    /// `out[b, .., i, ..] = self[b, .., at[b, i], ..]`.
    fn gather(&self, axis: usize, at: &Self::Indices) -> Result<Self>;

    /// `base` (`[batch, n, channels]`) with row `at[b, i]` replaced by `self[b, i]` (`[batch, count, channels]`).
    /// `at` has no repeats.
    fn scatter_into(&self, base: &Self, at: &Self::Indices) -> Result<Self> {
        generic::scatter_into(self, base, at)
    }

    /// The mean of the rows of each segment: `self` is `[batch, n, channels]`, `segments` (`[batch, n]`) names the
    /// segment of every row, each below `count`; `[batch, count, channels]`, with zeros for a segment without rows.
    /// Summed in the accumulator dtype, in one fixed order. Tokens that are merged are a segment.
    ///
    /// # Errors
    /// [`Error::Shape`] when a segment is not below `count`, or there are no rows or no segments.
    fn segment_mean(&self, segments: &Self::Indices, count: usize) -> Result<Self> {
        generic::segment_mean(self, segments, count)
    }
}

/// Index lists `[batch, count]`: `batch` rows of the same length, each entry below the length of the axis it points into.
pub trait Indices: Clone + Send + std::fmt::Debug + 'static {
    /// Where they live.
    type Device: Clone + Send;

    /// From host rows; all rows must have the same length.
    fn from_host(rows: &[Vec<u32>], device: &Self::Device) -> Result<Self>;
    /// To host rows.
    fn to_host(&self) -> Result<Vec<Vec<u32>>>;
    /// The device.
    fn device(&self) -> Self::Device;
    /// `(batch, count)`.
    fn dims(&self) -> (usize, usize);

    /// `out[b, i] = self[b, at[b, i]]`: composition of selections.
    fn gather(&self, at: &Self) -> Result<Self> {
        generic::indices_gather(self, at)
    }
    /// The lists one after the other in each row.
    fn concat(parts: &[&Self]) -> Result<Self> {
        generic::indices_concat(parts)
    }
    /// The indices of `0..n` that are not in the row, ascending.
    fn complement(&self, n: usize) -> Result<Self> {
        generic::indices_complement(self, n)
    }
    /// For a row that is a permutation of `0..count`: the inverse permutation.
    fn inverse(&self) -> Result<Self> {
        generic::indices_inverse(self)
    }
    /// The same entries, row after row, as `batch` lists of `count`.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many.
    fn reshape(&self, batch: usize, count: usize) -> Result<Self> {
        generic::indices_reshape(self, batch, count)
    }
}

/// The two halves of a selection over `n` tokens: every index of `0..n` is in exactly one, and both ascend.
#[derive(Debug, Clone)]
pub struct Partition<T: Tensor> {
    /// Tokens that stay, `[batch, kept]`.
    pub kept: T::Indices,
    /// Tokens that are pruned, `[batch, n - kept]`.
    pub pruned: T::Indices,
}

impl<T: Tensor> Partition<T> {
    /// The partition of `0..n` with these kept rows; each row must be strictly ascending and below `n`.
    ///
    /// # Errors
    /// [`Error::Config`] with field `kept` when a row is not.
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

    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.kept.dims().1 + self.pruned.dims().1
    }
}

/// The length of `axis`, or an [`Error::Shape`] in the name of `op`.
pub fn axis_len<T: Tensor>(tensor: &T, axis: usize, op: &'static str) -> Result<usize> {
    let shape = tensor.shape();
    shape.get(axis).copied().ok_or_else(|| Error::shape(op, format!("more than {axis} axes"), shape))
}

/// The shape as an array of `N` axes, or an [`Error::Shape`] in the name of `op`.
pub fn dims<const N: usize, T: Tensor>(tensor: &T, op: &'static str) -> Result<[usize; N]> {
    let shape = tensor.shape();
    <[usize; N]>::try_from(shape).map_err(|got| Error::shape(op, format!("{N} axes"), got))
}
