//! Tensors that know only their shapes.

use atedm_core::backend::shape;
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
    /// A tensor that no operation made: an input or a weight.
    pub fn new(shape: &[usize], dtype: DType, device: &ShapeDevice) -> Self {
        Self { shape: shape.to_vec(), dtype, device: device.clone() }
    }

    /// The result of an operation on `self`.
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
        Ok(self.made(shape::broadcast(op, &self.shape, &other.shape)?))
    }

    /// The result of an operation that keeps the shape.
    pub(super) fn mapped(&self) -> Result<Self> {
        Ok(self.made(self.shape.clone()))
    }
}

impl Tensor for ShapeTensor {
    type Device = ShapeDevice;
    type Indices = ShapeIndices;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], device: &ShapeDevice) -> Result<Self> {
        shape::from_bytes(bytes.len(), stored, shape)?;
        Ok(Self::new(shape, stored, device))
    }

    /// Gives zeros.
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
        shape::reshape(&self.shape, shape)?;
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        Ok(Self { shape: shape::permute(&self.shape, axes)?, ..self.clone() })
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        Ok(self.made(shape::narrow(&self.shape, axis, start, len)?))
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let shapes: Vec<&[usize]> = parts.iter().map(|part| part.sizes()).collect();
        let shape = shape::concat(&shapes, axis)?;
        let first = parts[0];
        parts.iter().try_for_each(|part| first.same_dtype(part, "concat"))?;
        Ok(first.made(shape))
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
        let shape = shape::matmul(&self.shape, &other.shape)?;
        let columns = shape.last().copied().unwrap_or(0);
        let macs = self.shape.iter().product::<usize>() as u64 * columns as u64;
        self.device.with(|ledger| ledger.book_matmul(macs));
        Ok(self.made(shape))
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        Ok(self.made(shape::reduce("sum", &self.shape, axis)?))
    }

    fn max(&self, axis: usize) -> Result<Self> {
        Ok(self.made(shape::max(&self.shape, axis)?))
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        let [batch, n] = shape::split_top_k(&self.shape, kept)?;
        Ok(Partition {
            kept: ShapeIndices::new(batch, kept, &self.device),
            pruned: ShapeIndices::new(batch, n - kept, &self.device),
        })
    }

    fn argmax_rows(&self) -> Result<ShapeIndices> {
        let [batch, _, columns] = shape::argmax_rows(&self.shape)?;
        Ok(ShapeIndices::new(batch, columns, &self.device))
    }

    fn gather(&self, axis: usize, at: &ShapeIndices) -> Result<Self> {
        Ok(self.made(shape::gather(&self.shape, axis, at.dims())?))
    }
}
