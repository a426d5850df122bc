//! `text_encoder*/config.json`: transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

use std::path::Path;

use atedm_core::{Error, Result};
use serde_json::{Value, json};

use super::Fields;
use super::limits::{self, at_most};

/// The activation of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextActivation {
    /// `x · sigmoid(1.702 x)`, as in OpenAI's CLIP.
    QuickGelu,
    /// GELU with the error function, as in OpenCLIP.
    Gelu,
}

/// The configuration of a text encoder: everything that its weights depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderConfig {
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Channels of the hidden states.
    pub channels: usize,
    /// Channels inside the feed-forward layers.
    pub feed_forward: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Most tokens of a prompt, start and end included.
    pub context: usize,
    /// The feed-forward's activation.
    pub activation: TextActivation,
    /// Epsilon of the layer norms.
    pub norm_epsilon: f64,
    /// The token that ends a prompt; the pooled state is read there. 2 is the legacy value, which means "highest
    /// token".
    pub end_token: u32,
    /// Channels of the pooled projection, for `CLIPTextModelWithProjection`.
    pub projection: Option<usize>,
}

impl TextEncoderConfig {
    /// Reads a text encoder's `config.json`. `class` is transformers' class, as `model_index.json` names it.
    ///
    /// The file's own `architectures` are ignored, as in diffusers.
    ///
    /// # Errors
    /// [`atedm_core::Error::Io`], or [`atedm_core::Error::Config`] naming the file and the field.
    pub fn read(file: &Path, class: &str) -> Result<Self> {
        Self::from_fields(&Fields::read(file)?.with("architectures", json!([class])))
    }

    /// Parses a JSON object with transformers' keys. `file` is used in messages.
    pub fn from_json(file: &Path, value: Value) -> Result<Self> {
        Self::from_fields(&Fields::new(file, value)?)
    }

    fn from_fields(fields: &Fields) -> Result<Self> {
        fields.expect("model_type", &[json!("clip_text_model")])?;
        fields.refuse_null(&[
            "eos_token_id",
            "hidden_act",
            "hidden_size",
            "intermediate_size",
            "layer_norm_eps",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
            "vocab_size",
        ])?;
        let classes = fields.texts("architectures")?.unwrap_or_default();
        let projection = match classes.first().map(String::as_str) {
            None | Some("CLIPTextModel") => None,
            Some("CLIPTextModelWithProjection") => {
                fields.refuse_null(&["projection_dim"])?;
                Some(fields.count("projection_dim", 512)?)
            }
            Some(other) => return Err(fields.error("architectures", format!("{other:?} is not supported"))),
        };
        let activation = match fields.text("hidden_act")?.unwrap_or("quick_gelu") {
            "quick_gelu" => TextActivation::QuickGelu,
            "gelu" | "gelu_python" => TextActivation::Gelu,
            other => {
                let reason = format!("{other:?} is not supported, expected \"quick_gelu\" or \"gelu\"");
                return Err(fields.error("hidden_act", reason));
            }
        };
        let config = Self {
            vocabulary: fields.count("vocab_size", 49408)?,
            channels: fields.count("hidden_size", 512)?,
            feed_forward: fields.count("intermediate_size", 2048)?,
            layers: fields.count("num_hidden_layers", 12)?,
            heads: fields.count("num_attention_heads", 8)?,
            context: fields.count("max_position_embeddings", 77)?,
            activation,
            norm_epsilon: fields.positive("layer_norm_eps", 1e-5)?,
            end_token: fields.index("eos_token_id", 49407)? as u32,
            projection,
        };
        at_most(fields, "num_hidden_layers", &[config.layers], limits::TEXT_LAYERS)?;
        at_most(fields, "max_position_embeddings", &[config.context], limits::CONTEXT)?;
        if !config.channels.is_multiple_of(config.heads) {
            let reason = format!("{} heads do not divide {} channels", config.heads, config.channels);
            return Err(fields.error("num_attention_heads", reason));
        }
        Ok(config)
    }

    /// Checks that a layer is left if the last one and `clip_skip` before it are left out.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] with the field `clip_skip`.
    pub fn check_skip(&self, clip_skip: usize) -> Result<()> {
        let most = self.layers.saturating_sub(1);
        match clip_skip <= most {
            true => Ok(()),
            false => {
                let reason = format!(
                    "expected at most {most}, as the text encoder has {} layers, got {clip_skip}",
                    self.layers
                );
                Err(Error::config("clip_skip", reason))
            }
        }
    }

    /// The config in transformers' format.
    pub fn to_json(&self) -> Value {
        let class = if self.projection.is_some() { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
        let activation = match self.activation {
            TextActivation::QuickGelu => "quick_gelu",
            TextActivation::Gelu => "gelu",
        };
        json!({
            "architectures": [class],
            "model_type": "clip_text_model",
            "vocab_size": self.vocabulary,
            "hidden_size": self.channels,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "hidden_act": activation,
            "layer_norm_eps": self.norm_epsilon,
            "eos_token_id": self.end_token,
            "projection_dim": self.projection.unwrap_or(self.channels),
        })
    }
}
