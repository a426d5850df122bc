//! diffusers' configuration of Stable Diffusion 3's transformer.

use std::path::Path;

use candle_core::{Result, bail};
use serde::Deserialize;

/// The fields of `transformer/config.json` that the forward pass needs.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// Width and height of a patch of latents.
    pub patch_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Layers.
    pub num_layers: usize,
    /// Channels of one head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Channels of the text.
    pub joint_attention_dim: usize,
    /// Channels of the pooled text.
    pub pooled_projection_dim: usize,
    /// Rows and columns of the table of positions.
    pub pos_embed_max_size: usize,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file is missing or is no such configuration; the message names the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(candle_core::Error::from).map_err(|e| e.with_path(path))?;
        match serde_json::from_str(&text) {
            Ok(config) => Ok(config),
            Err(error) => bail!("{}: {error}", path.display()),
        }
    }

    /// Channels of the streams.
    pub fn channels(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }
}
