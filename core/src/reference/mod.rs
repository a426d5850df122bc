//! The reference backend on `ndarray`, in f32 and f64: the plain one that others are compared with.
//!
//! Straightforward code, every shape checked before `ndarray` sees it (whose own checks panic). Sums over an axis
//! run in f64 in both precisions. Products go through `ndarray`'s matrix product, convolutions through unfolded
//! patches, so that small checkpoints run end to end; attention is the generic body, unchanged.
//!
//! # Structure
//! - `device.rs`, `tensor.rs`, `nn.rs`, `attention.rs`: the same four files as in every backend; `value.rs`: the type
//!   that they are of.
//! - `array.rs`, `norm.rs`: the loops behind them, generic over the element.

mod array;
mod attention;
mod device;
mod nn;
mod norm;
mod tensor;
#[cfg(test)]
mod testing;
mod value;

pub use device::{NdDevice, NdIndices};
pub use value::NdTensor;

use crate::Backend;

/// The name in configs and errors, of both precisions.
const NAME: &str = "ndarray";

/// The reference backend for work in f32. The tensor type is that of [`Reference64`]: the dtype is the tensor's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference32;

impl Backend for Reference32 {
    const NAME: &'static str = NAME;
    type Tensor = NdTensor;
}

/// The reference backend for work in f64, where rounding must not matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference64;

impl Backend for Reference64 {
    const NAME: &'static str = NAME;
    type Tensor = NdTensor;
}
