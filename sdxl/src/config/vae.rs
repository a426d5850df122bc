//! `vae/config.json`: diffusers' `AutoencoderKL` and `AutoencoderTiny`.

use std::path::Path;

use atedm_core::{DType, Result};
use serde_json::{Value, json};

use super::limits::{self, at_most};
use super::{Fields, block_type};

/// The configuration of an autoencoder of either kind: everything that its weights depend on.
#[derive(Debug, Clone, PartialEq)]
pub enum VaeConfig {
    /// `AutoencoderKL`, the kind that SD-XL uses.
    Kl(KlConfig),
    /// `AutoencoderTiny`, the TAESD family.
    Tiny(TinyVaeConfig),
}

/// `AutoencoderKL`.
#[derive(Debug, Clone, PartialEq)]
pub struct KlConfig {
    /// Channels of the input image.
    pub in_channels: usize,
    /// Channels of the output image.
    pub out_channels: usize,
    /// Channels of each stage, the image's side first.
    pub channels: Vec<usize>,
    /// Resnets of each encoder stage. The decoder's stages have one more.
    pub layers: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// The image size that it was made for. Tiles have this size.
    pub sample_size: usize,
    /// Whether the middle has attention.
    pub mid_attention: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub post_quant_conv: bool,
    /// The divisor of diffusion latents before decoding.
    pub scaling_factor: f64,
    /// Kept for completeness. diffusers' SD-XL pipelines do not apply it.
    pub shift_factor: Option<f64>,
    /// Mean and standard deviation of each latent channel, for checkpoints that standardise them.
    pub latent_statistics: Option<(Vec<f64>, Vec<f64>)>,
    /// Whether it must run in f32 when everything else is f16.
    pub force_upcast: bool,
}

/// `AutoencoderTiny`.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyVaeConfig {
    /// Channels of the input image.
    pub in_channels: usize,
    /// Channels of the output image.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each encoder stage.
    pub encoder_channels: Vec<usize>,
    /// Channels of each decoder stage.
    pub decoder_channels: Vec<usize>,
    /// Blocks of each encoder stage.
    pub encoder_blocks: Vec<usize>,
    /// Blocks of each decoder stage.
    pub decoder_blocks: Vec<usize>,
    /// The factor by which each decoder stage except the last enlarges the grid.
    pub upsampling: usize,
    /// The divisor of diffusion latents before decoding.
    pub scaling_factor: f64,
}

impl Default for TinyVaeConfig {
    /// The geometry of TAESD and TAESDXL.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            encoder_channels: vec![64; 4],
            decoder_channels: vec![64; 4],
            encoder_blocks: vec![1, 3, 3, 3],
            decoder_blocks: vec![3, 3, 3, 1],
            upsampling: 2,
            scaling_factor: 1.0,
        }
    }
}

impl VaeConfig {
    /// Reads a `config.json` that names its own class.
    ///
    /// # Errors
    /// [`atedm_core::Error::Io`], or [`atedm_core::Error::Config`] naming the file and the field.
    pub fn read(file: &Path) -> Result<Self> {
        Self::from_fields(&Fields::read(file)?)
    }

    /// Reads `vae/config.json` of a checkpoint whose `model_index.json` names `class`.
    ///
    /// # Errors
    /// The errors of [`VaeConfig::read`].
    pub(crate) fn read_as(file: &Path, class: &str) -> Result<Self> {
        Self::from_fields(&Fields::read(file)?.with("_class_name", json!(class)))
    }

    /// Parses a JSON object with diffusers' keys. `file` is used in messages.
    pub fn from_json(file: &Path, value: Value) -> Result<Self> {
        Self::from_fields(&Fields::new(file, value)?)
    }

    fn from_fields(fields: &Fields) -> Result<Self> {
        match fields.text("_class_name")?.unwrap_or("AutoencoderKL") {
            "AutoencoderKL" => KlConfig::from_fields(fields).map(Self::Kl),
            "AutoencoderTiny" => TinyVaeConfig::from_fields(fields).map(Self::Tiny),
            other => Err(fields.error("_class_name", format!("{other:?} is not supported"))),
        }
    }

    /// Image pixels per latent, in one dimension.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(config) => 1 << config.channels.len().saturating_sub(1),
            Self::Tiny(config) => config.upsampling.pow(config.decoder_blocks.len().saturating_sub(1) as u32),
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
        }
    }

    /// Whether it must run in f32 when everything else is f16. A tiny one never needs it.
    pub fn force_upcast(&self) -> bool {
        matches!(self, Self::Kl(config) if config.force_upcast)
    }

    /// The dtype to load it in when everything else runs in `dtype`: f32 if `force_upcast` is set and `dtype` is f16,
    /// else `dtype`.
    pub fn dtype_beside(&self, dtype: DType) -> DType {
        if dtype == DType::F16 && self.force_upcast() { DType::F32 } else { dtype }
    }

    /// The config in diffusers' format.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Kl(config) => config.to_json(),
            Self::Tiny(config) => config.to_json(),
        }
    }
}

impl KlConfig {
    fn from_fields(fields: &Fields) -> Result<Self> {
        fields.refuse_null(&[
            "in_channels",
            "out_channels",
            "down_block_types",
            "up_block_types",
            "block_out_channels",
            "layers_per_block",
            "act_fn",
            "latent_channels",
            "norm_num_groups",
            "sample_size",
            "scaling_factor",
        ])?;
        fields.expect_activation(&["silu", "swish"])?;
        let channels = fields.counts("block_out_channels")?.unwrap_or_else(|| vec![64]);
        if channels.is_empty() || channels.len() > 16 {
            return Err(fields.error("block_out_channels", "expected 1 to 16 stages"));
        }
        for (name, kind) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            let kinds = fields.texts(name)?.unwrap_or_else(|| vec![kind.to_string()]);
            if let Some(other) = kinds.iter().find(|k| block_type(k) != kind) {
                return Err(fields.error(name, format!("{other:?} is not supported, expected {kind:?}")));
            }
            if kinds.len() != channels.len() {
                return Err(
                    fields.error(name, format!("expected {} entries, got {}", channels.len(), kinds.len()))
                );
            }
        }
        let latent_channels = latent_channels(fields)?;
        let norm_groups = fields.count("norm_num_groups", 32)?;
        if let Some(odd) = channels.iter().find(|c| !c.is_multiple_of(norm_groups)) {
            return Err(
                fields.error("norm_num_groups", format!("{norm_groups} does not divide {odd} channels"))
            );
        }
        let sample_size = match fields.get("sample_size") {
            Some(Value::Array(_)) => {
                fields.counts("sample_size")?.and_then(|s| s.first().copied()).unwrap_or(32)
            }
            _ => fields.count("sample_size", 32)?,
        };
        let statistics = |name: &str| -> Result<Option<Vec<f64>>> {
            let values = fields.numbers(name)?;
            match &values {
                Some(v) if v.len() != latent_channels => {
                    Err(fields.error(name, format!("expected {latent_channels} numbers, got {}", v.len())))
                }
                _ => Ok(values),
            }
        };
        let layers = fields.count("layers_per_block", 1)?;
        at_most(fields, "block_out_channels", &channels, limits::CHANNELS)?;
        at_most(fields, "layers_per_block", &[layers], limits::LAYERS)?;
        Ok(Self {
            in_channels: fields.count("in_channels", 3)?,
            out_channels: picture_channels(fields)?,
            channels,
            layers,
            latent_channels,
            norm_groups,
            sample_size,
            mid_attention: fields.flag("mid_block_add_attention", true)?,
            quant_conv: fields.flag("use_quant_conv", true)?,
            post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            scaling_factor: fields.positive("scaling_factor", 0.18215)?,
            shift_factor: fields.optional_number("shift_factor")?,
            latent_statistics: statistics("latents_mean")?.zip(statistics("latents_std")?),
            force_upcast: fields.flag("force_upcast", true)?,
        })
    }

    fn to_json(&self) -> Value {
        let (mean, std) = self.latent_statistics.clone().unzip();
        json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": self.channels,
            "down_block_types": vec!["DownEncoderBlock2D"; self.channels.len()],
            "up_block_types": vec!["UpDecoderBlock2D"; self.channels.len()],
            "force_upcast": self.force_upcast,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "latent_channels": self.latent_channels,
            "latents_mean": mean,
            "latents_std": std,
            "layers_per_block": self.layers,
            "mid_block_add_attention": self.mid_attention,
            "norm_num_groups": self.norm_groups,
            "sample_size": self.sample_size,
            "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift_factor,
            "use_quant_conv": self.quant_conv,
            "use_post_quant_conv": self.post_quant_conv,
        })
    }
}

impl TinyVaeConfig {
    fn from_fields(fields: &Fields) -> Result<Self> {
        fields.refuse_null(&[
            "in_channels",
            "out_channels",
            "encoder_block_out_channels",
            "decoder_block_out_channels",
            "act_fn",
            "upsample_fn",
            "latent_channels",
            "upsampling_scaling_factor",
            "num_encoder_blocks",
            "num_decoder_blocks",
            "scaling_factor",
        ])?;
        fields.expect_activation(&["relu"])?;
        fields.expect("upsample_fn", &[json!("nearest")])?;
        let default = Self::default();
        let config = Self {
            in_channels: fields.count("in_channels", 3)?,
            out_channels: picture_channels(fields)?,
            latent_channels: latent_channels(fields)?,
            encoder_channels: fields
                .counts("encoder_block_out_channels")?
                .unwrap_or(default.encoder_channels),
            decoder_channels: fields
                .counts("decoder_block_out_channels")?
                .unwrap_or(default.decoder_channels),
            encoder_blocks: fields.counts("num_encoder_blocks")?.unwrap_or(default.encoder_blocks),
            decoder_blocks: fields.counts("num_decoder_blocks")?.unwrap_or(default.decoder_blocks),
            upsampling: fields.count("upsampling_scaling_factor", 2)?,
            scaling_factor: fields.positive("scaling_factor", 1.0)?,
        };
        for (name, channels) in [
            ("encoder_block_out_channels", &config.encoder_channels),
            ("decoder_block_out_channels", &config.decoder_channels),
        ] {
            at_most(fields, name, channels, limits::CHANNELS)?;
        }
        for (name, channels, blocks) in [
            ("num_encoder_blocks", &config.encoder_channels, &config.encoder_blocks),
            ("num_decoder_blocks", &config.decoder_channels, &config.decoder_blocks),
        ] {
            if blocks.is_empty() || blocks.len() > 16 || blocks.len() != channels.len() {
                return Err(fields.error(name, format!("expected {} entries (1 to 16)", channels.len())));
            }
            at_most(fields, name, blocks, limits::LAYERS)?;
            // diffusers builds `Conv2d(c, c)` between stages, so all must be equal.
            if channels.iter().any(|c| *c != channels[0]) {
                return Err(fields.error(name, "stages of different channels are not supported"));
            }
        }
        if config.upsampling > 8 {
            return Err(fields.error("upsampling_scaling_factor", "expected at most 8"));
        }
        Ok(config)
    }

    fn to_json(&self) -> Value {
        json!({
            "_class_name": "AutoencoderTiny",
            "act_fn": "relu",
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "latent_channels": self.latent_channels,
            "encoder_block_out_channels": self.encoder_channels,
            "decoder_block_out_channels": self.decoder_channels,
            "num_encoder_blocks": self.encoder_blocks,
            "num_decoder_blocks": self.decoder_blocks,
            "upsampling_scaling_factor": self.upsampling,
            "scaling_factor": self.scaling_factor,
        })
    }
}

/// Channels of the output image. A picture has three; more channels would be lost.
fn picture_channels(fields: &Fields) -> Result<usize> {
    match fields.count("out_channels", 3)? {
        3 => Ok(3),
        other => Err(fields.error("out_channels", format!("expected 3 (red, green and blue), got {other}"))),
    }
}

fn latent_channels(fields: &Fields) -> Result<usize> {
    let channels = fields.count("latent_channels", 4)?;
    at_most(fields, "latent_channels", &[channels], limits::CHANNELS)?;
    Ok(channels)
}
