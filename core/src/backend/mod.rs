//! The contract between algorithms and tensor libraries, in three small levels:
//! [`Tensor`] (what pruning needs), [`NnOps`] (what a U-Net needs), [`AttentionOps`] (where attention is fused).
//!
//! Which shapes fit an operation is decided in [`shape`], once for all backends.
//!
//! Every defaulted method's body is a public function in [`generic`], bounded by the *lower* level, so that an
//! override can be checked against it and can fall back to it.

mod attention;
pub mod generic;
mod nn;
pub mod shape;
mod tensor;

pub use attention::{
    Attended, AttentionGraph, AttentionOps, AttentionOptions, Donors, GraphRequest, Streamed,
};
pub use nn::{Conv2dOptions, NnOps};
pub use tensor::{Indices, Partition, Tensor, axis_len, dims};

use crate::Result;

/// The version of the contract: of the traits here and of the seam in [`plugin`](crate::plugin). It is raised whenever a
/// backend or a method that conformed may no longer do so; reports of the conformance suites carry it.
pub const CONTRACT_VERSION: u32 = 3;

/// A tensor library with its devices: an umbrella of types, used by model-level code (`UNet<B>`).
pub trait Backend: 'static {
    /// The name in configs, errors and metadata.
    const NAME: &'static str;
    /// The tensor, with everything a model needs.
    type Tensor: AttentionOps;

    /// Runs `f` with gradients switched off (only libtorch has any).
    fn inference<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    /// Waits until everything queued on `device` is done: for timings.
    fn synchronize(_device: &DeviceOf<Self>) -> Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// The device type of a backend.
pub type DeviceOf<B> = <<B as Backend>::Tensor as Tensor>::Device;
