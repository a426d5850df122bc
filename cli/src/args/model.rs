//! The flags that choose a model.

use std::path::PathBuf;

use atedm_experiment::config::Config;
use atedm_sdxl::checkpoint::{EmbeddingFile, Lora, OpenOptions};
use clap::Args;

use super::parse;

/// The checkpoint, and the files that replace parts of it. Every command with `--model` takes all of these flags.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    #[arg(long, value_name = "MODEL", help = MODEL_HELP)]
    pub(crate) model: Option<String>,
    /// Autoencoder that replaces the checkpoint's own: a folder, or a safetensors file with diffusers' names or the original
    /// ones; also TAESDXL
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) vae: Option<PathBuf>,
    /// U-Net that replaces the checkpoint's own: a folder, or a safetensors file with diffusers' names or the original ones
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) unet: Option<PathBuf>,
    /// ControlNet that runs beside the U-Net: a diffusers folder. Commands that make images also take --control-image
    #[arg(long, value_name = "DIR")]
    pub(crate) controlnet: Option<PathBuf>,
    /// Read only the weight files of this variant, such as fp16 [default: plain files, then fp16, then bf16]
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// LoRA file that changes the weights, and its strength, as in ink.safetensors:0.8 (repeatable) [default scale: 1]
    #[arg(long, value_name = "FILE[:SCALE]")]
    pub(crate) lora: Vec<Lora>,
    /// Scale of every LoRA for the text encoders [default: its own]
    #[arg(long, value_name = "SCALE", requires = "lora", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) lora_clip_scale: Option<f64>,
    /// Textual inversion for SD-XL (clip_l and clip_g); repeatable. Prompts name it by WORD, or by the file's name without ending
    #[arg(long, value_name = "FILE[:WORD]")]
    pub(crate) embedding: Vec<EmbeddingFile>,
}

impl ModelArgs {
    /// These flags. A configuration's key takes the place of a flag that is not given.
    pub(crate) fn or(&self, config: &Config) -> Self {
        let OpenOptions { vae, unet, controlnet, variant, loras, embeddings, .. } = config.open.clone();
        Self {
            model: self.model.clone().or_else(|| config.model.clone()),
            vae: self.vae.clone().or(vae),
            unet: self.unet.clone().or(unet),
            controlnet: self.controlnet.clone().or(controlnet),
            variant: self.variant.clone().or(variant),
            lora: if self.lora.is_empty() { loras } else { self.lora.clone() },
            lora_clip_scale: self.lora_clip_scale,
            embedding: if self.embedding.is_empty() { embeddings } else { self.embedding.clone() },
        }
    }

    /// The options for opening the checkpoint.
    pub(crate) fn options(&self) -> OpenOptions {
        let Self { vae, unet, controlnet, variant, lora, lora_clip_scale, embedding, .. } = self.clone();
        let scaled = |lora: Lora| Lora { clip_scale: lora_clip_scale.or(lora.clip_scale), ..lora };
        let loras = lora.into_iter().map(scaled).collect();
        OpenOptions { vae, unet, controlnet, variant, loras, embeddings: embedding, ..OpenOptions::default() }
    }
}

/// Help of `--model`.
#[cfg(feature = "embedded")]
const MODEL_HELP: &str = "\
    Checkpoint: a diffusers folder, a single safetensors file, or a hub id such as \
    stabilityai/stable-diffusion-xl-base-1.0 \
    [default: atedm-shapes, the small model that is built in]";

/// Help of `--model`, in a build without a model.
#[cfg(not(feature = "embedded"))]
const MODEL_HELP: &str = "\
    Checkpoint: a diffusers folder, a single safetensors file, or a hub id such as \
    stabilityai/stable-diffusion-xl-base-1.0 \
    (needed: this build has no model of its own)";
