//! The sizes of a model.

use serde::Deserialize;

/// The fields of diffusers' `config.json` that this example uses.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WanConfig {
    /// Frames, rows and columns of a patch: one token.
    pub patch_size: [usize; 3],
    /// Heads of every attention.
    pub num_attention_heads: usize,
    /// Channels of a head, an even number.
    pub attention_head_dim: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Channels of the text encoder's output.
    pub text_dim: usize,
    /// Channels of the time step's sinusoid, an even number.
    pub freq_dim: usize,
    /// Inner channels of the feed-forward.
    pub ffn_dim: usize,
    /// Layers of the stack.
    pub num_layers: usize,
    /// Added to the variance in every norm.
    pub eps: f64,
}

impl WanConfig {
    /// Channels of the stack.
    pub fn channels(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Numbers of one patch of one channel.
    pub fn patch_len(&self) -> usize {
        self.patch_size.iter().product()
    }
}
