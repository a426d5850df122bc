//! The reference backend on `ndarray`, in f32 and f64. It is plain, and the other backends are compared with it.
//!
//! The code is straightforward. It checks every shape before `ndarray` sees it, because `ndarray`'s own checks
//! panic. Sums over an axis run in f64 in both precisions. Products use `ndarray`'s matrix product, and convolutions
//! use unfolded patches. Small checkpoints therefore run end to end. Attention is the unchanged generic body.
//!
//! # Structure
//! - `device.rs`, `tensor.rs`, `nn.rs`, `attention.rs`: the same four files as in every backend. `value.rs` holds their type.
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

/// The name in configs and errors, for both precisions.
const NAME: &str = "ndarray";

/// The reference backend for work in f32. It has the same tensor type as [`Reference64`], because each tensor has its dtype.
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
