//! A small SD-XL described by a few numbers: its configurations, parameters and tokenizers.
//!
//! - [`Architecture`]: the numbers, in the form of a training recipe's TOML table.
//! - [`Vocabulary`]: byte-level BPE learnt from captions, or CLIP's own.
//! - [`Parameter`]: a tensor with the name and shape that diffusers and transformers use.
//! - [`Folder`]: writes all of it as a diffusers folder, with a [`ModelCard`] as its `README.md`.

mod card;
mod check;
pub(crate) mod clip;
pub(crate) mod documents;
mod folder;
mod parameters;
mod vocabulary;

use serde::{Deserialize, Serialize};

pub use card::{MeanLoss, ModelCard};
pub use folder::{Folder, NamedTensor, PartTensors, check_place, listed};
pub use parameters::{Parameter, Role};
pub use vocabulary::Vocabulary;
pub(crate) use vocabulary::pretty;

/// The sizes of an SD-XL. Its configurations and the shapes of its weights depend on these and the vocabulary alone.
///
/// Everything else is as in SD-XL: two CLIP text encoders, size and crop conditioning, linear projections around the
/// transformers, ε-prediction on the scaled linear schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Width and height in pixels of the images that the model is made for.
    pub size: usize,
    /// Tokens of a prompt, start and end included.
    pub context: usize,
    /// The text encoders.
    pub text: Text,
    /// The U-Net.
    pub unet: UNet,
    /// The autoencoder.
    pub vae: Autoencoder,
}

/// Both text encoders: a `CLIPTextModel` with quick GELU, then a `CLIPTextModelWithProjection` with GELU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Channels of the hidden states.
    pub channels: [usize; 2],
    /// Layers.
    pub layers: [usize; 2],
    /// Attention heads.
    pub heads: [usize; 2],
    /// Width of the feed-forward layers, in channels.
    #[serde(default = "four")]
    pub expansion: usize,
    /// Channels of the second encoder's pooled projection.
    pub projection: usize,
}

/// The U-Net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNet {
    /// Channels of each level, finest first. Each level halves the grid of the level before.
    pub channels: Vec<usize>,
    /// Resnets of each level on the way down. The way up has one more.
    pub layers: usize,
    /// Transformer layers of each attention block, by level; 0 for a level without attention. The middle has as many as
    /// the last level.
    pub depths: Vec<usize>,
    /// Channels of an attention head.
    pub head_channels: usize,
    /// Groups of every group norm.
    pub groups: usize,
    /// Sinusoidal channels of each of the six sizes and crops.
    pub size_channels: usize,
}

/// The autoencoder: an `AutoencoderKL`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Autoencoder {
    /// Channels of each level, the image's side first. Each level halves the grid of the level before.
    pub channels: Vec<usize>,
    /// Resnets of each level of the encoder. The decoder has one more.
    pub layers: usize,
    /// Groups of every group norm.
    pub groups: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// The factor that scales latents for the U-Net.
    pub scaling_factor: f64,
    /// Whether the middle has attention.
    #[serde(default = "yes")]
    pub mid_attention: bool,
}

impl Architecture {
    /// Image pixels per latent, in one dimension.
    pub fn factor(&self) -> usize {
        1 << self.vae.channels.len().saturating_sub(1)
    }

    /// Width and height in latents of the images that the model is made for.
    pub fn latent_size(&self) -> usize {
        self.size / self.factor()
    }

    /// Channels of the text that the U-Net attends to: the sum over both encoders.
    pub fn text_channels(&self) -> usize {
        self.text.channels.iter().sum()
    }

    /// Channels of the added conditioning: the pooled text and six sinusoidal embeddings.
    pub(crate) fn added_channels(&self) -> usize {
        self.text.projection + 6 * self.unet.size_channels
    }
}

fn four() -> usize {
    4
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
