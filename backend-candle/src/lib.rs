//! Candle backend of AT-EDM: tensors on the CPU, on NVIDIA GPUs (feature `cuda`) and on Apple GPUs (feature `metal`,
//! passed through and unverified).
//!
//! # Structure
//! - [`Candle`], the [`Backend`], and [`CandleTensor`], a newtype with `From` and `Into` both
//!   ways, so that users keep [`candle_core::Tensor`]; [`CandleIndices`], index lists as a `u32` tensor.
//! - [`device`]: devices by name, and the number of threads.
//! - [`weights`]: weights from a [`candle_nn::VarBuilder`].
//! - `tensor`, `nn`, `attention`: the three trait levels. On the CPU they hand f32 tensors (other dtypes by blocks) to
//!   `cpu`, blocked and threaded kernels; whatever those do not take goes through Candle's own operations or the
//!   generic bodies of [`atedm_core::backend::generic`], so that gradients survive.
//!
//! # Building for CUDA
//! The feature `cuda` needs a CUDA toolkit (`nvcc` and the libraries; a driver only where the program runs) and the
//! compute capability of the GPU, 90 for an H100 or H200:
//!
//! ```text
//! CUDA_HOME=/usr/local/cuda CUDA_COMPUTE_CAP=90 cargo build --release -p atedm-candle --features cuda
//! ```
//!
//! Selections then run on the host, attention and votes through the generic bodies in blocks of rows.

mod attention;
mod cpu;
pub mod device;
mod error;
mod indices;
mod nn;
mod own_model;
mod select;
mod tensor;
pub mod weights;

pub use candle_core::Device;
pub use indices::CandleIndices;
pub use own_model::{CandleBlockPass, CandleTokens};
pub use tensor::CandleTensor;
pub use weights::VarBuilderSource;

use atedm_core::{Backend, Result};
use error::OrBackend;

/// The name in configs, errors and metadata.
const NAME: &str = "candle";

/// Candle as a [`Backend`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Candle;

impl Backend for Candle {
    const NAME: &'static str = NAME;
    type Tensor = CandleTensor;

    /// Runs `f` with the CPU kernels also where a tensor is a variable: they record no gradients. Outside, an operation
    /// on a variable, or on what was computed from one, is Candle's own and differentiable.
    fn inference<R>(f: impl FnOnce() -> R) -> R {
        cpu::view::inference(f)
    }

    fn synchronize(device: &Device) -> Result<()> {
        device.synchronize().or_backend("synchronize")
    }
}
