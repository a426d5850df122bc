//! An autoencoder from elsewhere.
//!
//! ```text
//! folder    config.json and weights; taesdxl_encoder.safetensors and taesdxl_decoder.safetensors; a whole checkpoint
//! file      AutoencoderKL with diffusers' names, or with the original ones, alone or in a whole checkpoint
//!           AutoencoderTiny with diffusers' names; one of TAESDXL's two files (the other lies beside it)
//! ```
//! Shapes do not tell the scale of the latents. A file is taken to be made for SD-XL.

use std::path::Path;
use std::sync::Arc;

use atedm_core::Result;

use super::super::single::derive::{KlNames, kl};
use super::super::single::kind;
use super::super::single::names::{root, vae as renames};
use super::super::single::shapes::Shapes;
use super::part::{Origin, Other, folder_of, unlike, weights_in};
use crate::checkpoint::lora::adapter;
use crate::checkpoint::part::Part;
use crate::config::{TinyVaeConfig, VaeConfig};
use crate::weights::{Naming, WeightFile};

const EXPECTED: &str = "an autoencoder of SD-XL";

/// The two sides of an autoencoder. TAESDXL's files are named after them.
const SIDES: [&str; 2] = ["encoder", "decoder"];

/// Reads the autoencoder at `path`.
pub(crate) fn vae(path: &Path, variant: Option<&str>) -> Result<Other<VaeConfig>> {
    if !path.is_dir() {
        return in_file(path);
    }
    let folder = folder_of(path, Part::Vae);
    let config = folder.join("config.json");
    if !config.is_file() && folder.join(taesdxl("decoder")).is_file() {
        return sequential(&folder.join(taesdxl("decoder")));
    }
    let read = VaeConfig::read(&config)?;
    Ok(Other {
        config: read,
        files: weights_in(&folder, Part::Vae, variant)?,
        origin: Origin::Config(config),
    })
}

fn taesdxl(side: &str) -> String {
    format!("taesdxl_{side}.safetensors")
}

fn in_file(path: &Path) -> Result<Other<VaeConfig>> {
    let shapes = Shapes::read(path)?;
    let has = |beginning: &str| shapes.any(beginning);
    if let Some(what) = adapter(&shapes) {
        return Err(unlike(path, &what, EXPECTED));
    }
    if has(root(Part::Vae)) {
        return original(path, &shapes, root(Part::Vae));
    }
    if has("decoder.up_blocks.") {
        return kl_of(path, VaeConfig::Kl(kl(&shapes, KlNames::Folder)?), Naming::Stored);
    }
    if has("decoder.up.") {
        return original(path, &shapes.below(root(Part::Vae)), "");
    }
    for first in ["decoder.layers.0.weight", "decoder.1.weight"] {
        if shapes.get(first).is_some() {
            return kl_of(path, tiny(&shapes, first)?, Naming::Stored);
        }
    }
    if has("3.conv.0.") {
        return sequential(path);
    }
    Err(unlike(path, &kind::without(&shapes, "an autoencoder"), EXPECTED))
}

/// An autoencoder with the original names below `root`, which `shapes` shows below `first_stage_model.`.
fn original(path: &Path, shapes: &Shapes, root: &'static str) -> Result<Other<VaeConfig>> {
    let config = kl(shapes, KlNames::Original)?;
    let naming = Naming::Original(Arc::new(renames(&config, root)));
    kl_of(path, VaeConfig::Kl(config), naming)
}

fn kl_of(path: &Path, config: VaeConfig, naming: Naming) -> Result<Other<VaeConfig>> {
    let origin = Origin::Shapes(path.to_path_buf(), config.to_json());
    Ok(Other { config, files: vec![WeightFile { path: path.to_path_buf(), naming }], origin })
}

/// TAESDXL's geometry, with the channels of the decoder's first convolution.
fn tiny(shapes: &Shapes, first: &str) -> Result<VaeConfig> {
    let default = TinyVaeConfig::default();
    let channels = vec![shapes.axis(first, 0)?; default.decoder_channels.len()];
    Ok(VaeConfig::Tiny(TinyVaeConfig {
        latent_channels: shapes.axis(first, 1)?,
        encoder_channels: channels.clone(),
        decoder_channels: channels,
        ..default
    }))
}

/// TAESDXL as its author published it: one file for each side. `path` is one of them. The decoder suffices.
fn sequential(path: &Path) -> Result<Other<VaeConfig>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let [encoder, decoder] = SIDES.map(|side| {
        let renamed = SIDES.iter().fold(name.clone(), |name, other| name.replace(other, side));
        path.with_file_name(renamed)
    });
    let shapes = Shapes::read(&decoder)?;
    let first = "1.weight";
    if shapes.get(first).is_none() {
        return Err(unlike(&decoder, "no decoder of TAESDXL", "the decoder, or a folder of both sides"));
    }
    let config = tiny(&shapes, first)?;
    let origin = Origin::Shapes(path.to_path_buf(), config.to_json());
    let file = |path: &Path, side: &str| WeightFile {
        path: path.to_path_buf(),
        naming: Naming::Prefixed(format!("{side}.")),
    };
    let mut files = vec![file(&decoder, "decoder")];
    // A decoder whose name does not say what it is has no encoder beside it.
    if encoder != decoder && encoder.is_file() {
        files.push(file(&encoder, "encoder"));
    }
    Ok(Other { config, files, origin })
}
