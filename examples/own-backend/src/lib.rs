//! A backend of one's own: f32 in plain loops over the host's memory. It is slow, and complete.
//!
//! The files are those of every backend: `device.rs`, `tensor.rs`, `nn.rs`, `attention.rs`. Everything that a trait
//! gives a body for is left to that body.

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
