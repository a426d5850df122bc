//! [`NdTensor`]: an array of f32 or f64 elements.

use ndarray::{ArcArray, IxDyn};

/// An array of f32 or f64 in host memory. `clone` copies a handle, and views share the data.
///
/// Stored 16-bit floats are widened to f32 when read. A cast to a 16-bit float is
/// [`Error::Unsupported`](crate::Error::Unsupported).
#[derive(Debug, Clone)]
pub enum NdTensor {
    /// 32-bit floats.
    F32(ArcArray<f32, IxDyn>),
    /// 64-bit floats.
    F64(ArcArray<f64, IxDyn>),
}

impl From<ArcArray<f32, IxDyn>> for NdTensor {
    fn from(array: ArcArray<f32, IxDyn>) -> Self {
        Self::F32(array)
    }
}

impl From<ArcArray<f64, IxDyn>> for NdTensor {
    fn from(array: ArcArray<f64, IxDyn>) -> Self {
        Self::F64(array)
    }
}

/// Evaluates `$body` for the array inside, for either element type.
macro_rules! dispatch {
    ($tensor:expr, $array:ident => $body:expr) => {
        match $tensor {
            NdTensor::F32($array) => $body,
            NdTensor::F64($array) => $body,
        }
    };
}
pub(super) use dispatch;
