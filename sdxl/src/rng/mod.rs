//! Random numbers: torch's CPU generator bit for bit, and a portable generator with one stream per image.
//!
//! - [`TorchRng`]: one MT19937 for the whole batch, as diffusers with one `torch.Generator`. The noise of a seed
//!   depends on the dtype that it is drawn in ([`NoiseDType`]).
//! - [`ChaChaNoise`]: image `i` of a batch gets the same noise as image `i` alone.

mod chacha;
mod mt19937;
mod normal;
mod torch;

use std::str::FromStr;

use atedm_core::{DType, Error, Result};

pub use chacha::ChaChaNoise;
pub use torch::TorchRng;

/// A source of standard normal noise: for the initial latents, and for ancestral and consistency samplers.
///
/// The trait is object-safe. Values are made on the host as f32, so every backend gets the same numbers.
pub trait NoiseSource: Send {
    /// Standard normal values for a tensor of `shape` (`[batch, channels, height, width]`), row-major.
    ///
    /// # Errors
    /// [`Error::Config`] if the source's number of images is not the number of rows in `shape`.
    fn standard_normal(&mut self, shape: &[usize]) -> Result<Vec<f32>>;

    /// Like [`NoiseSource::standard_normal`], from the same stream, but drawn in `dtype`. An autoencoder may run in
    /// another dtype than the pipeline. Sources that always draw in one dtype ignore it.
    fn standard_normal_in(&mut self, shape: &[usize], dtype: DType) -> Result<Vec<f32>> {
        let _ = dtype;
        self.standard_normal(shape)
    }
}

/// The dtype that torch's generator draws noise in. Torch has a different algorithm for each dtype, so one seed gives
/// another picture in each. [`RngKind::ChaCha`] always draws in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NoiseDType {
    /// The dtype of the model that gets the noise, as in diffusers.
    #[default]
    OfModel,
    /// This dtype, whatever the model's is. The picture is then the same for all model dtypes.
    Always(DType),
}

impl NoiseDType {
    /// The dtype of the noise for a model in `dtype`.
    pub fn beside(self, dtype: DType) -> DType {
        match self {
            Self::OfModel => dtype,
            Self::Always(dtype) => dtype,
        }
    }
}

/// The generator that a seed is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RngKind {
    /// [`TorchRng`]: diffusers' latents for a seed. They depend on the batch size.
    #[default]
    Torch,
    /// [`ChaChaNoise`]: noise that does not depend on the batch.
    ChaCha,
}

impl RngKind {
    /// The names that a user may give.
    pub const NAMES: [&'static str; 2] = ["torch", "chacha"];

    /// The dtype that it draws in if `dtype` is asked for.
    pub fn dtype(self, dtype: DType) -> DType {
        match self {
            Self::Torch => dtype,
            Self::ChaCha => DType::F32,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::ChaCha => "chacha",
        }
    }

    /// The noise source for `images` images, numbered from 0. `dtype` is the dtype that `torch` draws in; `chacha`
    /// ignores it.
    pub fn source(self, seed: u64, images: usize, dtype: DType) -> Box<dyn NoiseSource> {
        match self {
            Self::Torch => Box::new(TorchRng::new(seed).drawing(dtype)),
            Self::ChaCha => Box::new(ChaChaNoise::new(seed, 0..images as u64)),
        }
    }
}

impl FromStr for RngKind {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "torch" => Ok(Self::Torch),
            "chacha" => Ok(Self::ChaCha),
            other => {
                Err(Error::config("rng", format!("expected {}, got {other:?}", Self::NAMES.join(" or "))))
            }
        }
    }
}

fn _object_safe(_: &dyn NoiseSource) {}
