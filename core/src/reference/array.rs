//! Loops over arrays of one element type: broadcasting, reductions, products, choice.
//!
//! Arrays may be views with any strides. A loop that needs row-major data calls [`row_major`], which copies only if it must.

use std::borrow::Cow;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArcArray, ArrayViewD, ArrayViewMut2, Axis, Ix2, IxDyn, NdFloat};

use super::{NdIndices, NdTensor};
use crate::backend::shape::{self, elements};
use crate::{DType, Error, Indices, Result, Tensor};

/// An array with shared data and any number of axes.
pub(super) type Array<F> = ArcArray<F, IxDyn>;

/// The two element types.
pub(super) trait Element: NdFloat {
    /// The dtype of this element.
    const DTYPE: DType;
    /// Rounds an f64 to this type.
    fn rounded(value: f64) -> Self;
    /// Widens this value to f64.
    fn wide(self) -> f64;
    /// The error function.
    fn erf(self) -> Self;
    /// The array inside a tensor of this dtype. A tensor of the other dtype gives an [`Error::DType`].
    fn of<'a>(tensor: &'a NdTensor, op: &'static str) -> Result<&'a Array<Self>>;
    /// Wraps an array as a tensor.
    fn tensor(array: Array<Self>) -> NdTensor;
}

fn other_dtype<T>(op: &'static str, expected: DType, got: &NdTensor) -> Result<T> {
    Err(Error::DType { op, expected: expected.to_string(), got: got.dtype().to_string() })
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    fn rounded(value: f64) -> Self {
        value as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
    fn of<'a>(tensor: &'a NdTensor, op: &'static str) -> Result<&'a Array<Self>> {
        match tensor {
            NdTensor::F32(array) => Ok(array),
            NdTensor::F64(_) => other_dtype(op, Self::DTYPE, tensor),
        }
    }
    fn tensor(array: Array<Self>) -> NdTensor {
        NdTensor::F32(array)
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    fn rounded(value: f64) -> Self {
        value
    }
    fn wide(self) -> f64 {
        self
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn of<'a>(tensor: &'a NdTensor, op: &'static str) -> Result<&'a Array<Self>> {
        match tensor {
            NdTensor::F64(array) => Ok(array),
            NdTensor::F32(_) => other_dtype(op, Self::DTYPE, tensor),
        }
    }
    fn tensor(array: Array<Self>) -> NdTensor {
        NdTensor::F64(array)
    }
}

/// Makes an array of row-major values.
pub(super) fn pack<F: Element>(values: Vec<F>, shape: &[usize], op: &'static str) -> Result<Array<F>> {
    let len = values.len();
    ArcArray::from_shape_vec(IxDyn(shape), values)
        .map_err(|_| Error::shape(op, format!("a shape of {len} elements"), shape))
}

/// The elements in row-major order. They are borrowed if they are stored in this order.
pub(super) fn row_major<F: Element>(array: &Array<F>) -> Cow<'_, [F]> {
    if let Some(values) = array.as_slice() {
        return Cow::Borrowed(values);
    }
    let mut values = Vec::with_capacity(array.len());
    for row in array.rows() {
        match row.to_slice() {
            Some(row) => values.extend_from_slice(row),
            None => values.extend(row.iter()),
        }
    }
    Cow::Owned(values)
}

/// Splits `shape` at `axis`: the number of entries before it, its own length, the number of entries after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    pub(super) outer: usize,
    pub(super) len: usize,
    pub(super) inner: usize,
}

impl Around {
    pub(super) fn axis(shape: &[usize], axis: usize, op: &'static str) -> Result<Self> {
        let Some(&len) = shape.get(axis) else {
            return Err(Error::shape(op, format!("at least {} axes", axis.saturating_add(1)), shape));
        };
        Ok(Self { outer: shape[..axis].iter().product(), len, inner: shape[axis + 1..].iter().product() })
    }
}

// ---- element-wise --------------------------------------------------------------------------------------------------

/// Applies `f` to each element, in the memory order of the operand.
pub(super) fn mapped<F: Element>(array: &Array<F>, f: impl Fn(F) -> F) -> NdTensor {
    F::tensor(array.mapv(f).into_shared())
}

/// A run of axes over which each operand either moves or stays (is broadcast).
struct Run {
    len: usize,
    left_moves: bool,
    right_moves: bool,
}

/// `f(left, right)` with length-1 axes broadcast.
pub(super) fn zip<F: Element>(
    left: &Array<F>,
    right: &NdTensor,
    op: &'static str,
    f: impl Fn(F, F) -> F + Copy,
) -> Result<NdTensor> {
    let right = F::of(right, op)?;
    let shape = shape::broadcast(op, left.shape(), right.shape())?;
    let mut runs: Vec<Run> = Vec::new();
    for ((&l, &r), &len) in left.shape().iter().zip(right.shape()).zip(&shape) {
        let (left_moves, right_moves) = (l == len, r == len);
        match runs.last_mut() {
            _ if len == 1 => {}
            Some(run) if run.left_moves == left_moves && run.right_moves == right_moves => run.len *= len,
            _ => runs.push(Run { len, left_moves, right_moves }),
        }
    }
    let mut out = Vec::with_capacity(elements(&shape, op)?);
    if !shape.contains(&0) {
        zip_runs(&runs, &row_major(left), &row_major(right), &mut out, f);
    }
    Ok(F::tensor(pack(out, &shape, op)?))
}

fn zip_runs<F: Element>(
    runs: &[Run],
    left: &[F],
    right: &[F],
    out: &mut Vec<F>,
    f: impl Fn(F, F) -> F + Copy,
) {
    match runs {
        // each operand is either a row of the run's length or one element
        [] | [_] => match (left, right) {
            (&[l], right) => out.extend(right.iter().map(|&r| f(l, r))),
            (left, &[r]) => out.extend(left.iter().map(|&l| f(l, r))),
            (left, right) => out.extend(left.iter().zip(right).map(|(&l, &r)| f(l, r))),
        },
        [run, rest @ ..] => {
            let part = |moves: bool, all: usize| if moves { all / run.len } else { 0 };
            let (l_step, r_step) = (part(run.left_moves, left.len()), part(run.right_moves, right.len()));
            for i in 0..run.len {
                let l = if run.left_moves { &left[i * l_step..(i + 1) * l_step] } else { left };
                let r = if run.right_moves { &right[i * r_step..(i + 1) * r_step] } else { right };
                zip_runs(rest, l, r, out, f);
            }
        }
    }
}

// ---- reductions ----------------------------------------------------------------------------------------------------

/// The sum of `f(x)`, in f64 and in eight lanes.
pub(super) fn sum_of<F: Element>(values: &[F], f: impl Fn(f64) -> f64) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value.wide());
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&value| f(value.wide())).sum::<f64>()
}

/// The larger value; a NaN wins.
pub(super) fn larger<F: Element>(a: F, b: F) -> F {
    if a > b || a.is_nan() { a } else { b }
}

/// The sum over `axis`, in f64. The axis is kept with length 1.
pub(super) fn sum<F: Element>(array: &Array<F>, axis: usize) -> Result<Array<F>> {
    let shape = shape::reduce("sum", array.shape(), axis)?;
    let Around { outer, len, inner } = Around::axis(array.shape(), axis, "sum")?;
    let values = row_major(array);
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        let block = &values[o * len * inner..(o + 1) * len * inner];
        if inner == 1 {
            out.push(F::rounded(sum_of(block, |x| x)));
        } else if inner > 1 {
            let mut sums = vec![0.0; inner];
            for row in block.chunks_exact(inner) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += value.wide();
                }
            }
            out.extend(sums.into_iter().map(F::rounded));
        }
    }
    pack(out, &shape, "sum")
}

/// The maximum over `axis`, which is kept with length 1.
pub(super) fn max<F: Element>(array: &Array<F>, axis: usize) -> Result<Array<F>> {
    let shape = shape::max(array.shape(), axis)?;
    let Around { outer, len, inner } = Around::axis(array.shape(), axis, "max")?;
    let values = row_major(array);
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        let block = &values[o * len * inner..(o + 1) * len * inner];
        if inner == 1 {
            out.push(block.iter().copied().fold(F::neg_infinity(), larger));
        } else if inner > 1 {
            let from = out.len();
            out.extend_from_slice(&block[..inner]);
            for row in block.chunks_exact(inner).skip(1) {
                for (most, &value) in out[from..].iter_mut().zip(row) {
                    *most = larger(*most, value);
                }
            }
        }
    }
    pack(out, &shape, "max")
}

// ---- products ------------------------------------------------------------------------------------------------------

/// `[.., m, k] x [.., k, n]`, entry by entry of the leading axes.
pub(super) fn matmul<F: Element>(left: &Array<F>, right: &Array<F>) -> Result<Array<F>> {
    let shape = shape::matmul(left.shape(), right.shape())?;
    let mut out = vec![F::zero(); elements(&shape, "matmul")?];
    if !out.is_empty() && !left.is_empty() {
        multiply(left.view(), right.view(), &mut out);
    }
    pack(out, &shape, "matmul")
}

/// Multiplies two arrays. No axis may be empty, and the shapes must fit.
fn multiply<F: Element>(left: ArrayViewD<'_, F>, right: ArrayViewD<'_, F>, out: &mut [F]) {
    if left.ndim() == 2 {
        let (Ok(l), Ok(r)) = (left.into_dimensionality::<Ix2>(), right.into_dimensionality::<Ix2>()) else {
            return;
        };
        if let Ok(mut product) = ArrayViewMut2::from_shape((l.nrows(), r.ncols()), out) {
            general_mat_mul(F::one(), &l, &r, F::zero(), &mut product);
        }
        return;
    }
    let size = out.len() / left.len_of(Axis(0));
    for ((l, r), product) in left.outer_iter().zip(right.outer_iter()).zip(out.chunks_exact_mut(size)) {
        multiply(l, r, product);
    }
}

// ---- choice and movement -------------------------------------------------------------------------------------------

fn nan_in(what: &str) -> Error {
    Error::NotFinite { what: what.to_string() }
}

/// The `kept` highest of each row of `[batch, n]`, and the rest. Both ascend by position. On ties the lower index
/// comes first.
pub(super) fn split_top_k<F: Element>(scores: &Array<F>, kept: usize) -> Result<(NdIndices, NdIndices)> {
    let [batch, n] = shape::split_top_k(scores.shape(), kept)?;
    let values = row_major(scores);
    let (mut stay, mut go) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
    for row in values.chunks_exact(n) {
        if row.iter().any(|score| score.is_nan()) {
            return Err(nan_in("split_top_k: a score"));
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        // The sort is stable, and -0.0 compares equal to 0.0. Without NaN an order always exists.
        order.sort_by(|&a, &b| {
            row[b as usize].partial_cmp(&row[a as usize]).unwrap_or(std::cmp::Ordering::Equal)
        });
        let mut rest = order.split_off(kept);
        order.sort_unstable();
        rest.sort_unstable();
        stay.push(order);
        go.push(rest);
    }
    Ok((NdIndices::new(&stay)?, NdIndices::new(&go)?))
}

/// For each batch entry and column of `[batch, n, m]`: the row with the largest value. On ties the lowest row wins.
pub(super) fn argmax_rows<F: Element>(array: &Array<F>) -> Result<NdIndices> {
    let [batch, n, m] = shape::argmax_rows(array.shape())?;
    let values = row_major(array);
    if values.iter().any(|value| value.is_nan()) {
        return Err(nan_in("argmax_rows: a value"));
    }
    let mut rows = Vec::with_capacity(batch);
    for b in 0..batch {
        let block = &values[b * n * m..(b + 1) * n * m];
        let mut best = block[..m].to_vec();
        let mut at = vec![0u32; m];
        for i in 1..n {
            for ((best, at), &value) in best.iter_mut().zip(&mut at).zip(&block[i * m..(i + 1) * m]) {
                if value > *best {
                    *best = value;
                    *at = i as u32;
                }
            }
        }
        rows.push(at);
    }
    NdIndices::new(&rows)
}

/// `out[b, .., i, ..] = array[b, .., at[b, i], ..]`.
pub(super) fn gather<F: Element>(array: &Array<F>, axis: usize, at: &NdIndices) -> Result<Array<F>> {
    let shape = shape::gather(array.shape(), axis, at.dims())?;
    let Around { len, inner, .. } = Around::axis(array.shape(), axis, "gather")?;
    at.check_below(len, "gather")?;
    let mut out = Vec::with_capacity(elements(&shape, "gather")?);
    let values = row_major(array);
    let each: usize = shape[1..axis].iter().product();
    for (b, row) in at.rows().enumerate() {
        for o in b * each..(b + 1) * each {
            for &i in row {
                let from = (o * len + i as usize) * inner;
                out.extend_from_slice(&values[from..from + inner]);
            }
        }
    }
    pack(out, &shape, "gather")
}
