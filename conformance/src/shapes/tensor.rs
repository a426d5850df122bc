//! Tensors that know their shapes only.

use atedm_core::backend::axis_len;
use atedm_core::{DType, Error, Indices, Partition, Result, Tensor};

use super::{ShapeDevice, ShapeIndices};

/// A shape, a dtype and a ledger.
#[derive(Debug, Clone)]
pub struct ShapeTensor {
    shape: Vec<usize>,
    dtype: DType,
    device: ShapeDevice,
}

impl ShapeTensor {
    /// A tensor that nobody made: an input or a weight.
    pub fn new(shape: &[usize], dtype: DType, device: &ShapeDevice) -> Self {
        Self { shape: shape.to_vec(), dtype, device: device.clone() }
    }

    /// What an operation on `self` makes.
    pub(super) fn made(&self, shape: Vec<usize>) -> Self {
        self.device.with(|ledger| ledger.note(&shape));
        Self { shape, ..self.clone() }
    }

    pub(super) fn sizes(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn same_dtype(&self, other: &Self, op: &'static str) -> Result<()> {
        if self.dtype == other.dtype {
            return Ok(());
        }
        Err(Error::DType { op, expected: self.dtype.to_string(), got: other.dtype.to_string() })
    }

    fn broadcast(&self, other: &Self, op: &'static str) -> Result<Self> {
        self.same_dtype(other, op)?;
        let fits = |(&a, &b): (&usize, &usize)| match (a, b) {
            (a, b) if a == b => Some(a),
            (1, b) => Some(b),
            (a, 1) => Some(a),
            _ => None,
        };
        let shape: Option<Vec<usize>> = self.shape.iter().zip(&other.shape).map(fits).collect();
        match shape {
            Some(shape) if self.shape.len() == other.shape.len() => Ok(self.made(shape)),
            _ => Err(Error::shape(op, format!("{:?}", self.shape), other.shape.clone())),
        }
    }

    /// The same shape, newly made.
    pub(super) fn mapped(&self) -> Result<Self> {
        Ok(self.made(self.shape.clone()))
    }

    fn with_axis(&self, axis: usize, len: usize) -> Self {
        let mut shape = self.shape.clone();
        shape[axis] = len;
        self.made(shape)
    }
}

impl Tensor for ShapeTensor {
    type Device = ShapeDevice;
    type Indices = ShapeIndices;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], device: &ShapeDevice) -> Result<Self> {
        if bytes.len() != shape.iter().product::<usize>() * stored.size_in_bytes() {
            return Err(Error::shape("from_bytes", format!("{} bytes", bytes.len()), shape));
        }
        Ok(Self::new(shape, stored, device))
    }

    /// Zeros.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(vec![0; self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()])
    }

    fn full(_value: f64, shape: &[usize], dtype: DType, device: &ShapeDevice) -> Result<Self> {
        Ok(Self::new(shape, dtype, device))
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn device(&self) -> ShapeDevice {
        self.device.clone()
    }

    fn cast(&self, to: DType) -> Result<Self> {
        Ok(Self { dtype: to, ..self.clone() })
    }

    fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.shape.iter().product::<usize>() {
            return Err(Error::shape("reshape", format!("{shape:?}"), self.shape.clone()));
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.shape.len()) {
            return Err(Error::shape("permute", format!("axes {axes:?}"), self.shape.clone()));
        }
        Ok(Self { shape: axes.iter().map(|&axis| self.shape[axis]).collect(), ..self.clone() })
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let all = axis_len(self, axis, "narrow")?;
        if start.checked_add(len).is_none_or(|end| end > all) {
            return Err(Error::shape("narrow", format!("{len} entries from {start}"), self.shape.clone()));
        }
        Ok(self.with_axis(axis, len))
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let Some(first) = parts.first() else { return Err(Error::shape("concat", "at least one part", [])) };
        let mut len = 0;
        for part in parts {
            first.same_dtype(part, "concat")?;
            len += axis_len(*part, axis, "concat")?;
            let differs = |other: usize| other != axis && part.shape[other] != first.shape[other];
            if part.shape.len() != first.shape.len() || (0..first.shape.len()).any(differs) {
                return Err(Error::shape("concat", format!("{:?}", first.shape), part.shape.clone()));
            }
        }
        Ok(first.with_axis(axis, len))
    }

    fn add(&self, other: &Self) -> Result<Self> {
        self.broadcast(other, "add")
    }

    fn sub(&self, other: &Self) -> Result<Self> {
        self.broadcast(other, "sub")
    }

    fn mul(&self, other: &Self) -> Result<Self> {
        self.broadcast(other, "mul")
    }

    fn div(&self, other: &Self) -> Result<Self> {
        self.broadcast(other, "div")
    }

    fn affine(&self, _scale: f64, _shift: f64) -> Result<Self> {
        self.mapped()
    }

    fn exp(&self) -> Result<Self> {
        self.mapped()
    }

    fn ln(&self) -> Result<Self> {
        self.mapped()
    }

    fn sqrt(&self) -> Result<Self> {
        self.mapped()
    }

    fn clamp_min(&self, _least: f64) -> Result<Self> {
        self.mapped()
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        self.same_dtype(other, "matmul")?;
        let misfit = || Error::shape("matmul", format!("right of {:?}", self.shape), other.shape.clone());
        let axes = self.shape.len();
        if axes < 2 || other.shape.len() != axes || self.shape[..axes - 2] != other.shape[..axes - 2] {
            return Err(misfit());
        }
        let (inner, columns) = (other.shape[axes - 2], other.shape[axes - 1]);
        if self.shape[axes - 1] != inner {
            return Err(misfit());
        }
        let macs = self.shape.iter().product::<usize>() as u64 * columns as u64;
        self.device.with(|ledger| ledger.book_matmul(macs));
        Ok(self.with_axis(axes - 1, columns))
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        axis_len(self, axis, "sum")?;
        Ok(self.with_axis(axis, 1))
    }

    fn max(&self, axis: usize) -> Result<Self> {
        axis_len(self, axis, "max")?;
        Ok(self.with_axis(axis, 1))
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        let [batch, n] = atedm_core::backend::dims(self, "split_top_k")?;
        if kept == 0 || kept > n {
            return Err(Error::shape("split_top_k", format!("1 to {n}"), [kept]));
        }
        Ok(Partition {
            kept: ShapeIndices::new(batch, kept, &self.device),
            pruned: ShapeIndices::new(batch, n - kept, &self.device),
        })
    }

    fn argmax_rows(&self) -> Result<ShapeIndices> {
        let [batch, _, columns] = atedm_core::backend::dims(self, "argmax_rows")?;
        Ok(ShapeIndices::new(batch, columns, &self.device))
    }

    fn gather(&self, axis: usize, at: &ShapeIndices) -> Result<Self> {
        axis_len(self, axis, "gather")?;
        let (batch, count) = at.dims();
        if axis == 0 || batch != self.shape[0] {
            return Err(Error::shape("gather", format!("{batch} rows, axis 1 or above"), self.shape.clone()));
        }
        Ok(self.with_axis(axis, count))
    }
}
