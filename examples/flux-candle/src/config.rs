//! diffusers' configuration of a FLUX transformer.

use std::path::Path;

use candle_core::{Result, bail};
use serde::Deserialize;

/// The fields of `transformer/config.json` that the forward pass needs.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// Channels of a packed latent.
    pub in_channels: usize,
    /// Channels of the prediction; those of the input if absent.
    pub out_channels: Option<usize>,
    /// Layers with two streams.
    pub num_layers: usize,
    /// Layers with one stream.
    pub num_single_layers: usize,
    /// Channels of one head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Channels of the text.
    pub joint_attention_dim: usize,
    /// Channels of the pooled text.
    pub pooled_projection_dim: usize,
    /// Whether the guidance scale is an input.
    pub guidance_embeds: bool,
    /// Channels of a head that turn with each of the three coordinates of a token.
    pub axes_dims_rope: [usize; 3],
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file is missing, is no such configuration, or its numbers do not fit each other; the message names the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(candle_core::Error::from).map_err(|e| e.with_path(path))?;
        let config: Self = match serde_json::from_str(&text) {
            Ok(config) => config,
            Err(error) => bail!("{}: {error}", path.display()),
        };
        let turned: usize = config.axes_dims_rope.iter().sum();
        if turned != config.attention_head_dim || config.axes_dims_rope.iter().any(|dim| dim % 2 == 1) {
            bail!("{}: axes_dims_rope must be even and add up to attention_head_dim", path.display());
        }
        Ok(config)
    }

    /// Channels of the stream.
    pub fn channels(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }
}
