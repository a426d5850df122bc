//! Selects and moves tokens.
//!
//! Selections are made on the host. Candle's CUDA sort is not stable, and a kept list is only a few kilobytes.

use std::cmp::Ordering;

use atedm_core::backend::{Partition, generic, shape};
use atedm_core::{DType, Error, Indices, Result, Tensor};
use candle_core::{DType as CandleDType, Tensor as Raw};
use half::bf16;

use crate::cpu::cast::cast;
use crate::cpu::columns::Columns;
use crate::cpu::layout::dense;
use crate::cpu::view::{View, takes};
use crate::error::OrBackend;
use crate::{CandleIndices, CandleTensor, cpu};

/// The elements as f64, exact for every dtype.
fn host_f64(x: &CandleTensor, what: &'static str) -> Result<Vec<f64>> {
    let values: Vec<f64> = match x.dtype() {
        DType::F64 => x.float(what)?.flatten_all().and_then(|x| x.to_vec1::<f64>()).or_backend(what)?,
        _ => x.to_f32()?.into_iter().map(f64::from).collect(),
    };
    if values.iter().any(|value| value.is_nan()) {
        return Err(Error::NotFinite { what: what.to_string() });
    }
    Ok(values)
}

/// [`Tensor::split_top_k`].
pub(crate) fn split_top_k(scores: &CandleTensor, kept: usize) -> Result<Partition<CandleTensor>> {
    let [batch, n] = shape::split_top_k(&scores.shape(), kept)?;
    let values = host_f64(scores, "a score")?;
    let (mut keep, mut prune) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
    for row in values.chunks(n) {
        // `partial_cmp` makes -0.0 and 0.0 equal; `total_cmp` would not. There is no NaN here.
        let order = |&a: &u32, &b: &u32| {
            let (x, y) = (row[a as usize], row[b as usize]);
            y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(&b))
        };
        let mut at: Vec<u32> = (0..n as u32).collect();
        if kept < n {
            at.select_nth_unstable_by(kept, order);
        }
        let mut rest = at.split_off(kept);
        at.sort_unstable();
        rest.sort_unstable();
        keep.push(at);
        prune.push(rest);
    }
    let device = scores.device();
    Ok(Partition {
        kept: CandleIndices::from_host(&keep, &device)?,
        pruned: CandleIndices::from_host(&prune, &device)?,
    })
}

/// [`Tensor::argmax_rows`].
pub(crate) fn argmax_rows(x: &CandleTensor) -> Result<CandleIndices> {
    let [batch, n, m] = shape::argmax_rows(&x.shape())?;
    let nan = || Error::NotFinite { what: "a value of argmax_rows".to_string() };
    let filled = batch > 0 && m > 0;
    let at = if filled && takes(&[&x.0]) {
        let found = columns(&x.0, 1).or_backend("argmax_rows")?;
        let numbers = !found.highest.iter().any(|highest| highest.is_nan());
        numbers.then(|| Raw::from_vec(found.row, (batch, m), x.0.device())).transpose()
    } else if filled && !x.0.device().is_cpu() && n < 1 << 24 {
        argmax_rows_on_device(&x.0, n)
    } else {
        return argmax_rows_on_host(x, [batch, n, m]);
    };
    Ok(CandleIndices::with_bound(at.or_backend("argmax_rows")?.ok_or_else(nan)?, n))
}

/// The largest numbers along an axis, with their places. The kernels must support the tensor, and it must be filled.
pub(crate) fn columns(x: &Raw, axis: usize) -> candle_core::Result<Columns> {
    let behind = x.dims()[axis + 1..].iter().product();
    let x = match x.dtype() {
        CandleDType::F16 => cast(x, CandleDType::F32)?,
        _ => x.clone(),
    };
    let x = dense(&x)?;
    let view = View::new(&x)?;
    Ok(match x.dtype() {
        CandleDType::BF16 => cpu::columns::columns::<bf16>(view.slice()?, x.dims()[axis], behind),
        _ => cpu::columns::columns::<f32>(view.slice()?, x.dims()[axis], behind),
    })
}

fn argmax_rows_on_host(x: &CandleTensor, [batch, n, m]: [usize; 3]) -> Result<CandleIndices> {
    let values = host_f64(x, "a value of argmax_rows")?;
    let mut rows = vec![vec![0u32; m]; batch];
    if m > 0 {
        for (map, best) in values.chunks(n * m).zip(&mut rows) {
            let mut highest = map[..m].to_vec();
            for (i, row) in map.chunks(m).enumerate().skip(1) {
                for ((value, high), at) in row.iter().zip(&mut highest).zip(best.iter_mut()) {
                    if *value > *high {
                        (*high, *at) = (*value, i as u32);
                    }
                }
            }
        }
    }
    CandleIndices::from_host(&rows, &x.device())
}

/// The lowest row among those equal to the maximum. It is `n −` the largest of `(n − i)` over them. `None` for a NaN.
fn argmax_rows_on_device(x: &Raw, n: usize) -> candle_core::Result<Option<Raw>> {
    let nan = x.ne(x)?.to_dtype(CandleDType::F32)?.sum_all()?.to_scalar::<f32>()?;
    if nan > 0.0 {
        return Ok(None);
    }
    let from_end = (Raw::arange(0f32, n as f32, x.device())?.affine(-1.0, n as f64)?).reshape((1, n, 1))?;
    let tied = x.broadcast_eq(&x.max_keepdim(1)?)?.to_dtype(CandleDType::F32)?;
    let lowest = tied.broadcast_mul(&from_end)?.max(1)?.affine(-1.0, n as f64)?;
    lowest.to_dtype(CandleDType::U32)?.contiguous().map(Some)
}

/// [`Tensor::gather`]: rows of a `[batch · n, rest]` view. Candle has a kernel for this that needs no full-size index.
pub(crate) fn gather(x: &CandleTensor, axis: usize, at: &CandleIndices) -> Result<CandleTensor> {
    let shape = x.shape();
    let result = shape::gather(&shape, axis, at.dims())?;
    let (batch, count) = at.dims();
    let n = shape[axis];
    at.check_below(n, "gather")?;
    if result.contains(&0) {
        return CandleTensor::full(0.0, &result, x.dtype(), &x.device());
    }
    let picked = || -> candle_core::Result<Raw> {
        let front = if axis == 1 { x.0.clone() } else { x.0.transpose(1, axis)? };
        let rest: usize = shape.iter().product::<usize>() / (batch * n);
        let rows = front.reshape((batch * n, rest))?;
        let flat = flat_rows(at, n)?;
        let mut picked_shape = front.dims().to_vec();
        picked_shape[1] = count;
        let picked = rows.index_select(&flat, 0)?.reshape(picked_shape)?;
        if axis == 1 { Ok(picked) } else { picked.transpose(1, axis) }
    };
    x.float("gather")?;
    picked().map(CandleTensor).or_backend("gather")
}

/// `b · n + at[b, i]`, flat.
fn flat_rows(at: &CandleIndices, n: usize) -> candle_core::Result<Raw> {
    let (batch, _) = at.dims();
    if batch == 1 {
        return at.tensor().flatten_all();
    }
    let starts: Vec<u32> = (0..batch).map(|b| (b * n) as u32).collect();
    let starts = Raw::from_vec(starts, (batch, 1), at.tensor().device())?;
    at.tensor().broadcast_add(&starts)?.flatten_all()
}

/// [`Tensor::scatter_into`].
pub(crate) fn scatter_into(
    rows: &CandleTensor,
    base: &CandleTensor,
    at: &CandleIndices,
) -> Result<CandleTensor> {
    rows.same_dtype(base, "scatter_into")?;
    generic::scatter_into(rows, base, at)
}
