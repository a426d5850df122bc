//! Operations that have a version for f32 and one for bf16.

use candle_core::{DType, Result, Tensor};
use half::bf16;

use super::cast::cast;
use super::number::Number;

/// An operation that has a version for each element type.
pub(crate) trait Operation {
    /// The version for `N`. The tensor has this dtype.
    fn run<N: Number>(self, x: &Tensor) -> Result<Tensor>;
}

/// Runs an operation on a tensor in f32 or a half precision. f16 becomes f32 and back.
pub(crate) fn run(x: &Tensor, operation: impl Operation) -> Result<Tensor> {
    match x.dtype() {
        DType::F32 => operation.run::<f32>(x),
        DType::BF16 => operation.run::<bf16>(x),
        dtype => cast(&operation.run::<f32>(&cast(x, DType::F32)?)?, dtype),
    }
}
