//! The checkpoint that `--model` names, and sizes that go with it.

use std::path::{Path, PathBuf};

use atedm_core::plugin::Grid;
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};

use crate::failure::{Failure, Outcome};
use crate::method::Workload;

/// Longest side accepted.
const LONGEST: usize = 1 << 15;

/// An opened checkpoint: its configurations are read, its weights are not.
pub(crate) struct Model {
    pub(crate) checkpoint: Checkpoint,
    name: String,
    text: usize,
}

impl Model {
    /// Opens a folder or, with the cargo feature `hub`, fetches a hub id.
    /// Of a hub id's files those of `variant` are fetched, where there are any.
    pub(crate) fn open(typed: &str, variant: Option<&str>) -> Outcome<Self> {
        let folder = folder_of(typed, variant)?;
        let in_file = |error: atedm_core::Error| Failure::run(error);
        let checkpoint = Checkpoint::open(&folder, OpenOptions::default()).map_err(in_file)?;
        let [first, _] = checkpoint.tokenizers().map_err(in_file)?;
        Ok(Self { text: first.length(), checkpoint, name: typed.to_string() })
    }

    /// As the user named it, without the folders above it.
    pub(crate) fn name(&self) -> &str {
        if self.name.contains('/') && !Path::new(&self.name).exists() {
            return &self.name;
        }
        Path::new(&self.name).file_name().and_then(|name| name.to_str()).unwrap_or(&self.name)
    }

    /// Width and height in pixels: as asked for, else the checkpoint's own.
    pub(crate) fn size(&self, width: Option<usize>, height: Option<usize>) -> Outcome<(usize, usize)> {
        let factor = self.checkpoint.vae().factor();
        let own = self.checkpoint.unet().sample_size.map(|latents| latents * factor);
        let side = |flag: &str, asked: Option<usize>| {
            let Some(pixels) = asked.or(own) else {
                return Err(Failure::usage(format!(
                    "{flag}: expected a number of pixels: the checkpoint names no size"
                )));
            };
            if pixels % 8 != 0 || pixels < factor.max(8) || pixels > LONGEST {
                let least = factor.max(8);
                return Err(Failure::usage(format!(
                    "{flag}: expected a multiple of 8 from {least} to {LONGEST}, got {pixels}"
                )));
            }
            Ok(pixels)
        };
        Ok((side("--width", width)?, side("--height", height)?))
    }

    /// What counts and costs depend on, at this size.
    pub(crate) fn workload(&self, (width, height): (usize, usize), steps: usize) -> Workload<'_> {
        let factor = self.checkpoint.vae().factor();
        let latents = Grid { height: height / factor, width: width / factor };
        Workload { unet: self.checkpoint.unet(), latents, text: self.text, steps }
    }

    /// Warns of prompts that do not fit the text encoders, before anything runs.
    pub(crate) fn warn_of_long_prompts<'a>(&self, prompts: impl Iterator<Item = &'a String>) -> Outcome {
        let [tokenizer, _] = self.checkpoint.tokenizers()?;
        for prompt in prompts {
            let cut = tokenizer.encode(prompt)?.cut;
            if cut > 0 {
                let context = tokenizer.length();
                eprintln!(
                    "warning: the text encoders take {context} tokens: the last {cut} of {prompt:?} are cut off"
                );
            }
        }
        Ok(())
    }

    /// The parts, each in a few words.
    pub(crate) fn parts(&self) -> Vec<(&'static str, String)> {
        let [first, second] = self.checkpoint.text_encoders();
        vec![
            ("text_encoder", text_words(first)),
            ("text_encoder_2", text_words(second)),
            ("unet", unet_words(self.checkpoint.unet())),
            ("vae", vae_words(self.checkpoint.vae())),
            ("scheduler", scheduler_words(self.checkpoint.scheduler())),
        ]
    }
}

fn text_words(config: &TextEncoderConfig) -> String {
    let TextEncoderConfig { layers, channels, context, vocabulary, .. } = config;
    let projection = config.projection.map_or(String::new(), |width| format!(", projection to {width}"));
    format!("{layers} layers of {channels} channels, {context} tokens, vocabulary {vocabulary}{projection}")
}

fn unet_words(config: &UNetConfig) -> String {
    let channels: Vec<String> = config.down.iter().map(|stage| stage.channels.to_string()).collect();
    let depths =
        config.down.iter().map(|stage| stage.attention.as_ref().and_then(|depths| depths.first()).copied());
    let depths: Vec<String> =
        depths.map(|depth| depth.map_or("-".into(), |depth| depth.to_string())).collect();
    format!(
        "channels {}, transformer depths {}, text channels {}",
        channels.join("/"),
        depths.join("/"),
        config.text_channels()
    )
}

fn vae_words(config: &VaeConfig) -> String {
    let (kind, channels) = match config {
        VaeConfig::Kl(kl) => ("AutoencoderKL", &kl.channels),
        VaeConfig::Tiny(tiny) => ("AutoencoderTiny", &tiny.decoder_channels),
    };
    let channels: Vec<String> = channels.iter().map(usize::to_string).collect();
    format!(
        "{kind}, factor {}, {} latent channels, channels {}",
        config.factor(),
        config.latent_channels(),
        channels.join("/")
    )
}

fn scheduler_words(config: &atedm_sdxl::schedulers::SchedulerConfig) -> String {
    let spacing =
        config.spacing.map_or(String::new(), |spacing| format!(", {spacing:?} spacing").to_lowercase());
    let karras = if config.karras { ", Karras" } else { "" };
    format!("{}{spacing}{karras}, {} training steps", config.class_name, config.num_train_timesteps)
}

#[cfg(feature = "hub")]
fn folder_of(typed: &str, variant: Option<&str>) -> Outcome<PathBuf> {
    use atedm_sdxl::hub::{HubSettings, is_hub_id, snapshot};
    if is_hub_id(typed) {
        return Ok(snapshot(typed, variant, &HubSettings::from_environment())?);
    }
    Ok(PathBuf::from(typed))
}

#[cfg(not(feature = "hub"))]
fn folder_of(typed: &str, _variant: Option<&str>) -> Outcome<PathBuf> {
    let path = Path::new(typed);
    let like_a_hub_id = typed.split('/').count() == 2
        && typed.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if !path.exists() && like_a_hub_id {
        let reason = "no such folder, and for a hub id this build lacks the cargo feature `hub`";
        return Err(Failure::file(path, reason));
    }
    Ok(path.to_path_buf())
}
