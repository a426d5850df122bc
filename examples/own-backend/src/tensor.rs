//! The tensor: a shape and its values, row-major.

use std::sync::Arc;

use atedm_core::backend::{axis_len, dims};
use atedm_core::{DType, Error, Indices, Partition, Result, Tensor};

use crate::{Host, Lists};

/// Values of f32; `clone` copies a handle.
#[derive(Debug, Clone)]
pub struct Flat {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Arc<[f32]>,
}

/// The one dtype.
fn expect_f32(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 => Ok(()),
        other => Err(Error::Unsupported { backend: "loops", op: format!("dtype {other} (only f32)") }),
    }
}

/// The number of elements of `shape`.
fn count(shape: &[usize], op: &'static str) -> Result<usize> {
    let product = shape.iter().try_fold(1, |product: usize, &len| product.checked_mul(len));
    product.ok_or_else(|| Error::shape(op, "a shape that memory can hold", shape))
}

impl Flat {
    /// Every element from its multi-index.
    pub(crate) fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f32) -> Self {
        let mut index = vec![0; shape.len()];
        let element = |_| {
            let value = f(&index);
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
            value
        };
        Self { shape: shape.to_vec(), data: (0..shape.iter().product()).map(element).collect() }
    }

    /// The element at a multi-index; an axis of length 1 takes any index.
    pub(crate) fn at(&self, index: &[usize]) -> f32 {
        let place = |flat, (&len, &i): (&usize, &usize)| flat * len + if len == 1 { 0 } else { i };
        self.data[self.shape.iter().zip(index).fold(0, place)]
    }

    /// Every element mapped, in f64.
    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        let data = self.data.iter().map(|&x| f(f64::from(x)) as f32).collect();
        Self { shape: self.shape.clone(), data }
    }

    /// The shape with another length of `axis`.
    fn with_axis(&self, axis: usize, len: usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        shape[axis] = len;
        shape
    }

    /// Both operands element by element.
    fn zip(&self, other: &Self, op: &'static str, f: impl Fn(f32, f32) -> f32) -> Result<Self> {
        let fits = |(&a, &b): (&usize, &usize)| match (a, b) {
            (a, b) if a == b || b == 1 => Some(a),
            (1, b) => Some(b),
            _ => None,
        };
        let shape: Option<Vec<usize>> = self.shape.iter().zip(&other.shape).map(fits).collect();
        match shape.filter(|_| self.shape.len() == other.shape.len()) {
            Some(shape) => Ok(Self::from_fn(&shape, |i| f(self.at(i), other.at(i)))),
            None => Err(Error::shape(op, format!("a shape that fits {:?}", self.shape), other.shape.clone())),
        }
    }

    /// Every line along `axis` folded from `start`, in f64; the axis stays with length 1.
    fn fold(&self, axis: usize, op: &'static str, start: f64, f: impl Fn(f64, f64) -> f64) -> Result<Self> {
        let len = axis_len(self, axis, op)?;
        Ok(Self::from_fn(&self.with_axis(axis, 1), |i| {
            let mut place = i.to_vec();
            let line = (0..len).map(|entry| {
                place[axis] = entry;
                f64::from(self.data[self.shape.iter().zip(&place).fold(0, |flat, (len, i)| flat * len + i)])
            });
            line.fold(start, &f) as f32
        }))
    }

    /// That no value is NaN.
    fn expect_ordered(&self, op: &'static str) -> Result<()> {
        match self.data.iter().any(|x| x.is_nan()) {
            true => Err(Error::NotFinite { what: format!("{op}: a score") }),
            false => Ok(()),
        }
    }
}

impl Tensor for Flat {
    type Device = Host;
    type Indices = Lists;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], _device: &Host) -> Result<Self> {
        expect_f32(stored)?;
        let (elements, rest) = bytes.as_chunks::<4>();
        if elements.len() != count(shape, "from_bytes")? || !rest.is_empty() {
            return Err(Error::shape("from_bytes", format!("the shape of {} bytes", bytes.len()), shape));
        }
        let data = elements.iter().map(|&element| f32::from_le_bytes(element)).collect();
        Ok(Self { shape: shape.to_vec(), data })
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.data.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn full(value: f64, shape: &[usize], dtype: DType, _device: &Host) -> Result<Self> {
        expect_f32(dtype)?;
        Ok(Self { shape: shape.to_vec(), data: vec![value as f32; count(shape, "full")?].into() })
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn device(&self) -> Host {
        Host
    }

    fn cast(&self, to: DType) -> Result<Self> {
        expect_f32(to).map(|()| self.clone())
    }

    fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if count(shape, "reshape")? != self.data.len() {
            return Err(Error::shape("reshape", format!("{} elements", self.data.len()), shape));
        }
        Ok(Self { shape: shape.to_vec(), data: self.data.clone() })
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.shape.len()) {
            return Err(Error::shape("permute", format!("axes {axes:?}"), self.shape.clone()));
        }
        let shape: Vec<usize> = axes.iter().map(|&axis| self.shape[axis]).collect();
        let mut source = vec![0; axes.len()];
        Ok(Self::from_fn(&shape, |i| {
            axes.iter().zip(i).for_each(|(&axis, &place)| source[axis] = place);
            self.at(&source)
        }))
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let all = axis_len(self, axis, "narrow")?;
        if start.checked_add(len).is_none_or(|end| end > all) {
            return Err(Error::shape("narrow", format!("{len} entries from {start}"), self.shape.clone()));
        }
        Ok(Self::from_fn(&self.with_axis(axis, len), |i| {
            let mut source = i.to_vec();
            source[axis] += start;
            self.at(&source)
        }))
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let Some(first) = parts.first() else { return Err(Error::shape("concat", "at least one part", [])) };
        let mut starts = vec![0];
        for part in parts {
            let len = axis_len(*part, axis, "concat")?;
            if part.shape.len() != first.shape.len() || part.with_axis(axis, 0) != first.with_axis(axis, 0) {
                return Err(Error::shape("concat", format!("{:?}", first.shape), part.shape.clone()));
            }
            starts.push(starts[starts.len() - 1] + len);
        }
        Ok(Self::from_fn(&first.with_axis(axis, starts[parts.len()]), |i| {
            let part = starts.partition_point(|&start| start <= i[axis]) - 1;
            let mut source = i.to_vec();
            source[axis] -= starts[part];
            parts[part].at(&source)
        }))
    }

    fn add(&self, other: &Self) -> Result<Self> {
        self.zip(other, "add", |a, b| a + b)
    }

    fn sub(&self, other: &Self) -> Result<Self> {
        self.zip(other, "sub", |a, b| a - b)
    }

    fn mul(&self, other: &Self) -> Result<Self> {
        self.zip(other, "mul", |a, b| a * b)
    }

    fn div(&self, other: &Self) -> Result<Self> {
        self.zip(other, "div", |a, b| a / b)
    }

    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        Ok(self.map(|x| x * scale + shift))
    }

    fn exp(&self) -> Result<Self> {
        Ok(self.map(f64::exp))
    }

    fn ln(&self) -> Result<Self> {
        Ok(self.map(f64::ln))
    }

    fn sqrt(&self) -> Result<Self> {
        Ok(self.map(f64::sqrt))
    }

    fn clamp_min(&self, least: f64) -> Result<Self> {
        Ok(self.map(|x| if x < least { least } else { x }))
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        let axes = self.shape.len();
        let misfit = || Error::shape("matmul", format!("right of {:?}", self.shape), other.shape.clone());
        if axes < 2 || other.shape.len() != axes || self.shape[..axes - 2] != other.shape[..axes - 2] {
            return Err(misfit());
        }
        let (rows, inner, columns) = (self.shape[axes - 2], self.shape[axes - 1], other.shape[axes - 1]);
        if other.shape[axes - 2] != inner {
            return Err(misfit());
        }
        let product = |matrix: usize, row: usize, column: usize| {
            let left = &self.data[(matrix * rows + row) * inner..][..inner];
            let right = &other.data[matrix * inner * columns..];
            let terms = left.iter().enumerate();
            terms.map(|(k, &x)| f64::from(x) * f64::from(right[k * columns + column])).sum::<f64>() as f32
        };
        let data = (0..self.shape[..axes - 2].iter().product::<usize>())
            .flat_map(|matrix| (0..rows).map(move |row| (matrix, row)))
            .flat_map(|(matrix, row)| (0..columns).map(move |column| (matrix, row, column)))
            .map(|(matrix, row, column)| product(matrix, row, column));
        Ok(Self { data: data.collect(), shape: self.with_axis(axes - 1, columns) })
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        self.fold(axis, "sum", 0.0, |sum, x| sum + x)
    }

    fn max(&self, axis: usize) -> Result<Self> {
        self.fold(axis, "max", f64::NEG_INFINITY, |most, x| if x > most { x } else { most })
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        let [_, n] = dims(self, "split_top_k")?;
        if kept == 0 || kept > n {
            return Err(Error::shape("split_top_k", format!("1 to {n} kept"), [kept]));
        }
        self.expect_ordered("split_top_k")?;
        let highest = |row: &[f32]| {
            let mut order: Vec<u32> = (0..n as u32).collect();
            // stable: equal scores stay in the order of their places; -0.0 == 0.0
            order.sort_by(|&i, &j| {
                row[j as usize].partial_cmp(&row[i as usize]).unwrap_or(std::cmp::Ordering::Equal)
            });
            order.truncate(kept);
            order.sort_unstable();
            order
        };
        let rows: Vec<Vec<u32>> = self.data.chunks_exact(n).map(highest).collect();
        Partition::from_kept(&rows, n, &Host)
    }

    fn argmax_rows(&self) -> Result<Lists> {
        let [batch, n, columns] = dims(self, "argmax_rows")?;
        self.expect_ordered("argmax_rows")?;
        if n == 0 {
            return Err(Error::shape("argmax_rows", "at least one row", self.shape.clone()));
        }
        let best = |b: usize, column: usize| {
            let value = |row: usize| self.at(&[b, row, column]);
            (1..n).fold(0, |best, row| if value(row) > value(best) { row } else { best }) as u32
        };
        let rows: Vec<Vec<u32>> =
            (0..batch).map(|b| (0..columns).map(|column| best(b, column)).collect()).collect();
        Lists::from_host(&rows, &Host)
    }

    fn gather(&self, axis: usize, at: &Lists) -> Result<Self> {
        let len = axis_len(self, axis, "gather")?;
        if axis == 0 {
            return Err(Error::shape("gather", "axis 1 or above", [axis]));
        }
        at.expect("gather", self.shape[0], len)?;
        Ok(Self::from_fn(&self.with_axis(axis, at.dims().1), |i| {
            let mut source = i.to_vec();
            source[axis] = at.0[i[0]][i[axis]] as usize;
            self.at(&source)
        }))
    }
}
