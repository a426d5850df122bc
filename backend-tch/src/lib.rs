#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`Torch`] is the [`Backend`]. [`TchTensor`] is a newtype with `From` and `Into` both ways, so users keep
//!   [`tch::Tensor`]. [`TchIndices`] holds index lists as an `i64` tensor.
//! - [`device`]: devices by name, the number of threads, and the library that a GPU needs.
//! - [`weights`]: weights from a [`tch::nn::VarStore`].
//! - `value`: the newtype. `tensor`, `nn`, `attention`: the three trait levels. Each call uses tch's fallible
//!   version (`f_…`). `map`: the attention map in libtorch's operations.
//! - `packed`: linear layers with weights that oneDNN has packed. `unpacked` stands for it on other processors.
//! - `kernels`: runs the kernels of [`atedm_cpu_kernels`] on tensors, on libtorch's threads (`openmp`).
//!
//! # Gradients
//! No operation switches gradients off, and none works in place on an operand. A user's own variables can therefore
//! be trained through the same model. Only [`Backend::inference`] runs without gradients.
//!
//! # Building
//! tch 0.24 is made for libtorch 2.11.0. The environment variable `LIBTORCH` names its folder; `<site-packages>/torch` of
//! a Python installation is enough. The feature `doc-only` builds the documentation without libtorch. Link arguments do
//! not propagate, so a binary's own build script emits the run path. It finds the folder in `DEP_ATEDM_TCH_LIBTORCH_LIB`:
//!
//! ```no_run
//! // build.rs
//! if let Ok(folder) = std::env::var("DEP_ATEDM_TCH_LIBTORCH_LIB") {
//!     println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
//! }
//! ```

mod attention;
pub mod device;
mod error;
mod indices;
mod kernels;
mod map;
mod nn;
mod openmp;
#[cfg(onednn)]
mod packed;
#[cfg(not(onednn))]
#[path = "unpacked.rs"]
mod packed;
mod select;
mod tensor;
mod value;
pub mod weights;

pub use error::{OrBackend, TorchResult};
pub use indices::TchIndices;
pub use tch::Device;
pub use value::TchTensor;
pub use weights::VarStoreSource;

use atedm_core::{Backend, Result};
use error::NAME;

/// libtorch as a [`Backend`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Torch;

impl Backend for Torch {
    const NAME: &'static str = NAME;
    type Tensor = TchTensor;

    /// Runs `f` without recording gradients.
    fn inference<R>(f: impl FnOnce() -> R) -> R {
        let _guard = tch::no_grad_guard();
        f()
    }

    /// Waits for a GPU. It reads one number that is computed after all queued work. On the CPU nothing is queued.
    fn synchronize(device: &Device) -> Result<()> {
        if *device == Device::Cpu {
            return Ok(());
        }
        let last = tch::Tensor::f_zeros([1], (tch::Kind::Float, *device)).or_backend("synchronize")?;
        last.f_double_value(&[0]).map(drop).or_backend("synchronize")
    }
}
