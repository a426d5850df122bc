#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`Candle`] is the [`Backend`]. [`CandleTensor`] is a newtype with `From` and `Into` both ways, so users keep
//!   [`candle_core::Tensor`]. [`CandleIndices`] holds index lists as a `u32` tensor.
//! - [`device`]: devices by name, and the number of threads.
//! - [`weights`]: weights from a [`candle_nn::VarBuilder`].
//! - `value`: the newtype. `tensor`, `nn`, `attention`: the three trait levels. On the CPU they pass tensors in f32 and
//!   bf16 (f16 as f32) to `cpu`, which has blocked and threaded kernels. `kernels` is attention on processors with
//!   AVX2 (f32) or AVX512-BF16 (bf16), `cuda` is attention on NVIDIA GPUs. Candle's own operations do what those kernels
//!   do not support, or the generic bodies of [`atedm_core::backend::generic`] do it. Gradients survive on this path.
//!
//! # Building for CUDA
//! The feature `cuda` needs a CUDA toolkit (`nvcc` and the libraries) and the compute capability of the GPU. That
//! is 90 for an H100 or H200. Only the machine that runs the program needs a driver:
//!
//! ```text
//! CUDA_HOME=/usr/local/cuda CUDA_COMPUTE_CAP=90 cargo build --release -p atedm-candle --features cuda
//! ```
//!
//! The feature `cudnn` gives convolutions to cuDNN 9. Without it, Candle copies the patches of every convolution and
//! multiplies matrices.
//!
//! On CUDA, selections run on the host. Attention, votes and the argmax of similarity copy have kernels of their own in
//! f16 and bf16, for heads of 8 to 128 elements (multiples of 8) and GPUs from compute capability 8.0 on. NVRTC, the
//! toolkit's compiler in a library, compiles them when a head size is first used. So the program needs `libnvrtc` where
//! it runs. In all other cases the generic bodies run in blocks of rows, and `ATEDM_CUDA=generic` makes them run always.
//!
//! `candle-flash-attn` is not needed. It returns no log-sum-exp, and without one every vote would first need a pass for
//! it. One kernel here gives both the output and the log-sum-exp.
//!
//! The kernels have never been launched on a GPU. The tests compile their sources for the host and compare them with
//! the generic bodies.

mod attention;
mod cpu;
#[cfg_attr(not(feature = "cuda"), path = "cuda/elsewhere.rs")]
mod cuda;
pub mod device;
mod error;
mod indices;
mod kernels;
mod nn;
mod outcome;
mod own_model;
mod own_nest;
mod select;
mod tensor;
mod value;
pub mod weights;

pub use candle_core::Device;
pub use indices::CandleIndices;
pub use own_model::{CandleBlockPass, CandleTokens};
pub use own_nest::nest;
pub use value::CandleTensor;
pub use weights::VarBuilderSource;

use atedm_core::{Backend, Result};
use error::{NAME, OrBackend};

/// Candle as a [`Backend`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Candle;

impl Backend for Candle {
    const NAME: &'static str = NAME;
    type Tensor = CandleTensor;

    /// Runs `f` with the CPU kernels even if a tensor is a variable. The kernels record no gradients. Without this
    /// call, Candle's own differentiable operations serve variables and results of variables.
    fn inference<R>(f: impl FnOnce() -> R) -> R {
        cpu::view::inference(f)
    }

    fn synchronize(device: &Device) -> Result<()> {
        device.synchronize().or_backend("synchronize")
    }
}
