//! Level 1 on libtorch: [`TchTensor`].

use atedm_core::backend::{Partition, shape};
use atedm_core::{DType, Error, Result, Tensor};
use tch::{Device, Tensor as Raw};

use crate::TchIndices;
use crate::error::{OrBackend, TorchResult};
use crate::select;
use crate::value::{TchTensor, from_kind, sizes, to_kind};

impl TchTensor {
    /// A binary operation that broadcasts only axes of length 1.
    fn binary(
        &self,
        other: &Self,
        op: &'static str,
        apply: impl FnOnce(&Raw, &Raw) -> TorchResult<Raw>,
    ) -> Result<Self> {
        self.same_dtype(other, op)?;
        shape::broadcast(op, &self.shape(), &other.shape())?;
        apply(&self.0, &other.0).map(Self).or_backend(op)
    }

    /// An operation of libtorch's on a float tensor.
    pub(crate) fn unary(
        &self,
        op: &'static str,
        apply: impl FnOnce(&Raw) -> TorchResult<Raw>,
    ) -> Result<Self> {
        apply(self.float(op)?).map(Self).or_backend(op)
    }
}

impl Tensor for TchTensor {
    type Device = Device;
    type Indices = TchIndices;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], device: &Device) -> Result<Self> {
        shape::from_bytes(bytes.len(), stored, shape)?;
        Raw::f_from_data_size(bytes, &sizes(shape), to_kind(stored))
            .and_then(|host| if *device == Device::Cpu { Ok(host) } else { host.f_to_device(*device) })
            .map(Self)
            .or_backend("from_bytes")
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let count = self.float("to_bytes")?.numel();
        let mut bytes = vec![0; count * self.dtype().size_in_bytes()];
        self.0.f_copy_data_u8(&mut bytes, count).or_backend("to_bytes")?;
        Ok(bytes)
    }

    fn full(value: f64, shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        Raw::f_full(sizes(shape), value, (to_kind(dtype), *device)).map(Self).or_backend("full")
    }

    /// The element type. It is [`DType::F32`] for a tensor of one of libtorch's other dtypes, which every operation refuses.
    fn dtype(&self) -> DType {
        self.0.f_kind().ok().and_then(from_kind).unwrap_or(DType::F32)
    }

    fn shape(&self) -> Vec<usize> {
        self.0.size().into_iter().map(|len| len as usize).collect()
    }

    fn device(&self) -> Device {
        self.0.device()
    }

    fn cast(&self, to: DType) -> Result<Self> {
        if self.float("cast").is_ok() && self.dtype() == to {
            return Ok(self.clone());
        }
        self.unary("cast", |x| x.f_to_kind(to_kind(to)))
    }

    fn reshape(&self, shape: &[usize]) -> Result<Self> {
        shape::reshape(&self.shape(), shape)?;
        self.0.f_reshape(sizes(shape)).map(Self).or_backend("reshape")
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        shape::permute(&self.shape(), axes)?;
        self.0.f_permute(sizes(axes)).map(Self).or_backend("permute")
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        shape::narrow(&self.shape(), axis, start, len)?;
        self.0.f_narrow(axis as i64, start as i64, len as i64).map(Self).or_backend("narrow")
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let shapes: Vec<Vec<usize>> = parts.iter().map(|part| part.shape()).collect();
        shape::concat(&shapes, axis)?;
        let first = parts[0];
        parts.iter().try_for_each(|part| first.same_dtype(part, "concat"))?;
        if parts.len() == 1 {
            return Ok(first.clone());
        }
        let raws: Vec<&Raw> = parts.iter().map(|part| &part.0).collect();
        Raw::f_cat(&raws, axis as i64).map(Self).or_backend("concat")
    }

    fn add(&self, other: &Self) -> Result<Self> {
        self.binary(other, "add", Raw::f_add)
    }

    fn sub(&self, other: &Self) -> Result<Self> {
        self.binary(other, "sub", Raw::f_sub)
    }

    fn mul(&self, other: &Self) -> Result<Self> {
        self.binary(other, "mul", Raw::f_mul)
    }

    fn div(&self, other: &Self) -> Result<Self> {
        self.binary(other, "div", Raw::f_div)
    }

    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        self.unary("affine", |x| {
            let mut scaled = x.f_mul_scalar(scale)?;
            if shift == 0.0 { Ok(scaled) } else { scaled.f_add_scalar_(shift) }
        })
    }

    fn exp(&self) -> Result<Self> {
        self.unary("exp", Raw::f_exp)
    }

    fn ln(&self) -> Result<Self> {
        self.unary("ln", Raw::f_log)
    }

    fn sqrt(&self) -> Result<Self> {
        self.unary("sqrt", Raw::f_sqrt)
    }

    fn clamp_min(&self, least: f64) -> Result<Self> {
        self.unary("clamp_min", |x| x.f_clamp_min(least))
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        self.same_dtype(other, "matmul")?;
        shape::matmul(&self.shape(), &other.shape())?;
        self.0.f_matmul(&other.0).map(Self).or_backend("matmul")
    }

    fn softmax(&self) -> Result<Self> {
        if self.0.dim() == 0 {
            return Err(Error::shape("softmax", "at least 1 axis", []));
        }
        // libtorch computes half dtypes in f32 inside
        self.unary("softmax", |x| x.f_softmax(-1, None))
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        shape::reduce("sum", &self.shape(), axis)?;
        self.unary("sum", |x| x.f_sum_dim_intlist(axis as i64, true, None))
    }

    fn max(&self, axis: usize) -> Result<Self> {
        shape::max(&self.shape(), axis)?;
        self.unary("max", |x| x.f_amax(axis as i64, true))
    }

    fn mean(&self, axis: usize) -> Result<Self> {
        shape::reduce("mean", &self.shape(), axis)?;
        self.unary("mean", |x| x.f_mean_dim(axis as i64, true, None))
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        select::split_top_k(self, kept)
    }

    fn argmax_rows(&self) -> Result<TchIndices> {
        select::argmax_rows(self)
    }

    fn gather(&self, axis: usize, at: &TchIndices) -> Result<Self> {
        select::gather(self, axis, at)
    }

    fn scatter_into(&self, base: &Self, at: &TchIndices) -> Result<Self> {
        select::scatter_into(self, base, at)
    }
}
