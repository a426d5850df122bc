//! Random numbers: torch's CPU generator bit for bit, and a portable one with a stream per image.
//!
//! - [`TorchRng`]: one MT19937 for the whole batch, as diffusers with one `torch.Generator`.
//! - [`ChaChaNoise`]: image `i` of a batch gets the same noise as image `i` alone.

mod chacha;
mod mt19937;
mod normal;
mod torch;

use std::str::FromStr;

use atedm_core::{Error, Result};

pub use chacha::ChaChaNoise;
pub use torch::TorchRng;

/// Where standard normal noise comes from: the initial latents, and what ancestral and consistency samplers add.
///
/// Object-safe; values are made on the host in f32, so that every backend and dtype sees the same numbers.
pub trait NoiseSource: Send {
    /// Standard normal values for a tensor of `shape` (`[batch, channels, height, width]`), row-major.
    ///
    /// # Errors
    /// [`Error::Config`] if the source has another number of images than `shape` has rows.
    fn standard_normal(&mut self, shape: &[usize]) -> Result<Vec<f32>>;
}

/// Which generator a seed is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::ChaCha => "chacha",
        }
    }

    /// The noise source for `images` images numbered from 0.
    pub fn source(self, seed: u64, images: usize) -> Box<dyn NoiseSource> {
        match self {
            Self::Torch => Box::new(TorchRng::new(seed)),
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
