//! A ControlNet beside a checkpoint: a diffusers folder of its own.

use std::path::Path;

use atedm_core::{Error, Result};

use super::part::{Origin, Other, unlike, weights_in};
use crate::checkpoint::part::Part;
use crate::config::{ControlNetConfig, UNetConfig};

/// The ControlNet's folder in the folder of a whole pipeline.
const FOLDER: &str = "controlnet";

/// Reads the ControlNet in the folder `path`, and checks that it fits a U-Net whose latents stand for `factor` × `factor` pixels.
pub(crate) fn control_net(
    path: &Path,
    variant: Option<&str>,
    unet: &UNetConfig,
    factor: usize,
) -> Result<Other<ControlNetConfig>> {
    if path.is_file() {
        return Err(unlike(path, "a file", "a ControlNet's folder, with config.json and weights"));
    }
    let folder = if path.join("model_index.json").is_file() { path.join(FOLDER) } else { path.to_path_buf() };
    let file = folder.join("config.json");
    let config = ControlNetConfig::read(&file)?;
    let named = |field: &str, reason: String| Error::config(format!("{}: {field}", file.display()), reason);
    if let Some((field, reason)) = config.misfit(unet) {
        return Err(named(field, reason));
    }
    if config.factor() != factor {
        let reason =
            format!("expected halvings by {factor}, as the autoencoder has, got {}", config.factor());
        return Err(named("conditioning_embedding_out_channels", reason));
    }
    // Its weight files have the names of a U-Net's.
    let files = weights_in(&folder, Part::UNet, variant)?;
    Ok(Other { config, files, origin: Origin::Config(file) })
}
