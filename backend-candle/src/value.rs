//! [`CandleTensor`]: a newtype, its conversions, and its dtype.

use atedm_core::{DType, Error, Result};
use candle_core::{DType as CandleDType, Tensor as Raw};

/// A [`candle_core::Tensor`] of dtype f16, bf16, f32 or f64 that knows the operations of AT-EDM.
///
/// `From` and `Into` convert both ways at no cost. The operations refuse Candle's other dtypes.
#[derive(Debug, Clone)]
pub struct CandleTensor(pub(crate) Raw);

impl From<Raw> for CandleTensor {
    fn from(tensor: Raw) -> Self {
        Self(tensor)
    }
}

impl From<&Raw> for CandleTensor {
    fn from(tensor: &Raw) -> Self {
        Self(tensor.clone())
    }
}

impl From<CandleTensor> for Raw {
    fn from(tensor: CandleTensor) -> Self {
        tensor.0
    }
}

impl From<&CandleTensor> for Raw {
    fn from(tensor: &CandleTensor) -> Self {
        tensor.0.clone()
    }
}

impl AsRef<Raw> for CandleTensor {
    fn as_ref(&self) -> &Raw {
        &self.0
    }
}

/// The Candle dtype for our dtype.
pub(crate) fn to_candle(dtype: DType) -> CandleDType {
    match dtype {
        DType::F16 => CandleDType::F16,
        DType::BF16 => CandleDType::BF16,
        DType::F32 => CandleDType::F32,
        DType::F64 => CandleDType::F64,
    }
}

pub(crate) fn from_candle(dtype: CandleDType) -> Option<DType> {
    match dtype {
        CandleDType::F16 => Some(DType::F16),
        CandleDType::BF16 => Some(DType::BF16),
        CandleDType::F32 => Some(DType::F32),
        CandleDType::F64 => Some(DType::F64),
        _ => None,
    }
}

impl CandleTensor {
    /// The tensor, if its dtype is one of ours.
    pub(crate) fn float(&self, op: &'static str) -> Result<&Raw> {
        if from_candle(self.0.dtype()).is_some() {
            return Ok(&self.0);
        }
        let got = self.0.dtype().as_str().to_string();
        Err(Error::DType { op, expected: "f16, bf16, f32 or f64".to_string(), got })
    }

    /// Fails unless both tensors have one float dtype.
    pub(crate) fn same_dtype(&self, other: &Self, op: &'static str) -> Result<()> {
        self.float(op)?;
        if self.0.dtype() == other.0.dtype() {
            return Ok(());
        }
        let (expected, got) = (self.0.dtype().as_str().to_string(), other.0.dtype().as_str().to_string());
        Err(Error::DType { op, expected, got })
    }
}
