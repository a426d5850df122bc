//! [`TchTensor`]: a newtype, its conversions, and its dtype.

use atedm_core::{DType, Error, Result, Tensor};
use tch::{Kind, Tensor as Raw};

/// A [`tch::Tensor`] of dtype f16, bf16, f32 or f64 that knows the operations of AT-EDM.
///
/// `From` and `Into` convert both ways at no cost. The operations refuse libtorch's other dtypes.
#[derive(Debug)]
pub struct TchTensor(pub(crate) Raw);

impl Clone for TchTensor {
    /// A handle to the same elements.
    fn clone(&self) -> Self {
        Self(self.0.shallow_clone())
    }
}

impl From<Raw> for TchTensor {
    fn from(tensor: Raw) -> Self {
        Self(tensor)
    }
}

impl From<&Raw> for TchTensor {
    fn from(tensor: &Raw) -> Self {
        Self(tensor.shallow_clone())
    }
}

impl From<TchTensor> for Raw {
    fn from(tensor: TchTensor) -> Self {
        tensor.0
    }
}

impl From<&TchTensor> for Raw {
    fn from(tensor: &TchTensor) -> Self {
        tensor.0.shallow_clone()
    }
}

impl AsRef<Raw> for TchTensor {
    fn as_ref(&self) -> &Raw {
        &self.0
    }
}

/// The libtorch dtype for our dtype.
pub(crate) fn to_kind(dtype: DType) -> Kind {
    match dtype {
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::F32 => Kind::Float,
        DType::F64 => Kind::Double,
    }
}

pub(crate) fn from_kind(kind: Kind) -> Option<DType> {
    match kind {
        Kind::Half => Some(DType::F16),
        Kind::BFloat16 => Some(DType::BF16),
        Kind::Float => Some(DType::F32),
        Kind::Double => Some(DType::F64),
        _ => None,
    }
}

/// A shape in libtorch's form.
pub(crate) fn sizes(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&len| len as i64).collect()
}

impl TchTensor {
    /// The tensor, if its dtype is one of ours.
    pub(crate) fn float(&self, op: &'static str) -> Result<&Raw> {
        let got = match self.0.f_kind() {
            Ok(kind) if from_kind(kind).is_some() => return Ok(&self.0),
            Ok(kind) => format!("{kind:?}"),
            Err(_) => "one that tch does not know".to_string(),
        };
        Err(Error::DType { op, expected: "f16, bf16, f32 or f64".to_string(), got })
    }

    /// Fails unless both tensors have one float dtype.
    pub(crate) fn same_dtype(&self, other: &Self, op: &'static str) -> Result<()> {
        self.float(op)?;
        other.float(op)?;
        let (expected, got) = (self.dtype(), other.dtype());
        if expected == got {
            return Ok(());
        }
        Err(Error::DType { op, expected: expected.to_string(), got: got.to_string() })
    }
}
