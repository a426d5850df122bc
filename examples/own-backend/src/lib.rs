//! A backend of your own: f32 in plain loops over the host's memory. It is complete, but slow.
//!
//! The files have the names of every backend: `device.rs`, `tensor.rs`, `nn.rs`, `attention.rs`. No default body is
//! overridden.

mod attention;
mod device;
mod nn;
mod tensor;

use atedm_core::Backend;

pub use device::{Host, Lists};
pub use tensor::Flat;

/// The backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loops;

impl Backend for Loops {
    const NAME: &'static str = "loops";
    type Tensor = Flat;
}
