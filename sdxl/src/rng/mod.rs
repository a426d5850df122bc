//! Random numbers: torch's CPU generator bit for bit, and a portable one with a stream per image.
//!
//! - [`TorchRng`]: one MT19937 for the whole batch, as diffusers with one `torch.Generator`. A seed's noise depends on the
//!   dtype that it is drawn in ([`NoiseDType`]).
//! - [`ChaChaNoise`]: image `i` of a batch gets the same noise as image `i` alone.

mod chacha;
mod mt19937;
mod normal;
mod torch;

use std::str::FromStr;

use atedm_core::{DType, Error, Result};

pub use chacha::ChaChaNoise;
pub use torch::TorchRng;

/// Where standard normal noise comes from: the initial latents, and what ancestral and consistency samplers add.
///
/// Object-safe; values are made on the host and given as f32, so that every backend sees the same numbers.
pub trait NoiseSource: Send {
    /// Standard normal values for a tensor of `shape` (`[batch, channels, height, width]`), row-major.
    ///
    /// # Errors
    /// [`Error::Config`] if the source has another number of images than `shape` has rows.
    fn standard_normal(&mut self, shape: &[usize]) -> Result<Vec<f32>>;

    /// The same from the same stream, drawn in another dtype than the source's own where the source knows any: an
    /// autoencoder may run in another than the pipeline.
    fn standard_normal_in(&mut self, shape: &[usize], dtype: DType) -> Result<Vec<f32>> {
        let _ = dtype;
        self.standard_normal(shape)
    }
}

/// The dtype that torch's generator draws noise in. Each takes its own path there, so that one seed gives another
/// picture in each; [`RngKind::ChaCha`] draws f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum NoiseDType {
    /// That of the model that the noise is for, as diffusers draws.
    #[default]
    OfModel,
    /// This one, whatever the model has: one picture over dtypes.
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

/// Which generator a seed is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RngKind {
    /// [`TorchRng`]: diffusers' latents for a seed, which depend on the batch size.
    #[default]
    Torch,
    /// [`ChaChaNoise`]: independent of the batch.
    ChaCha,
}

impl RngKind {
    /// The names a user may give.
    pub const NAMES: [&'static str; 2] = ["torch", "chacha"];

    /// What it draws in when a model's dtype asks for `dtype`.
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

    /// The noise source for `images` images numbered from 0; `dtype` is what it draws in, which counts for `torch` only.
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
