//! The contract between algorithms and tensor libraries, in three small levels:
//! [`Tensor`] (for pruning), [`NnOps`] (for a U-Net), [`AttentionOps`] (for fused attention).
//!
//! [`shape`] decides for all backends which shapes fit an operation.
//!
//! The body of every default method is a public function in [`generic`]. Only the *lower* level bounds it, so an
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

/// A tensor library with its devices. This umbrella of types serves code at model level (`UNet<B>`).
pub trait Backend: 'static {
    /// The name in configs, errors and metadata.
    const NAME: &'static str;
    /// The tensor, with every operation that a model needs.
    type Tensor: AttentionOps;

    /// Runs `f` without gradients. Only libtorch has gradients.
    fn inference<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    /// Waits until all queued work on `device` is done. Timings need it.
    fn synchronize(_device: &DeviceOf<Self>) -> Result<()>
    where
        Self: Sized,
    {
        Ok(())
    }
}

/// The device type of a backend.
pub type DeviceOf<B> = <<B as Backend>::Tensor as Tensor>::Device;
