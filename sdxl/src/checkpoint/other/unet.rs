//! A U-Net from elsewhere: a folder, or a file with diffusers' names or the original ones.
//!
//! A file has no configuration. If its tensors have the names and shapes of the checkpoint's own U-Net, that one's
//! configuration counts. Only the channels of the input may differ, as an inpainting model's do. Other tensors with the original
//! names give a configuration by their shapes, as in a single file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use atedm_core::{DType, Result};

use super::super::single::names::{root, unet as renames};
use super::super::single::shapes::Shapes;
use super::super::single::{kind, unet::derive};
use super::part::{Origin, Other, Replaced, folder_of, unlike, weights_in};
use crate::checkpoint::configurations::Configurations;
use crate::checkpoint::lora::adapter;
use crate::checkpoint::part::Part;
use crate::config::UNetConfig;
use crate::weights::{Naming, SafetensorsSource, WeightFile};

const EXPECTED: &str = "a U-Net of SD-XL";
/// The first convolution in a folder. Its inputs are the U-Net's.
const FIRST: &str = "conv_in.weight";

/// The checkpoint that a U-Net should fit.
struct Own<'a> {
    /// Its own U-Net.
    config: &'a UNetConfig,
    /// The weights of its own U-Net; `None` if they are missing.
    files: Option<&'a [WeightFile]>,
    /// Channels of the pooled text.
    pooled: usize,
}

/// Reads the U-Net at `path` into `configurations`, and returns its weight files. `own` are those of the checkpoint's
/// U-Net, if it has them.
pub(crate) fn take_unet(
    replaced: &mut Replaced,
    configurations: &mut Configurations,
    path: &Path,
    variant: Option<&str>,
    own: Option<&[WeightFile]>,
) -> Result<Vec<WeightFile>> {
    let [_, second] = &configurations.text_encoders;
    let pooled = second.projection.unwrap_or(0);
    let other = unet(path, variant, &Own { config: &configurations.unet, files: own, pooled })?;
    configurations.unet = other.config;
    replaced.unet = Some(other.origin);
    Ok(other.files)
}

/// Reads the U-Net at `path`.
fn unet(path: &Path, variant: Option<&str>, own: &Own<'_>) -> Result<Other<UNetConfig>> {
    if path.is_dir() {
        let folder = folder_of(path, Part::UNet);
        let config = folder.join("config.json");
        let read = UNetConfig::read(&config)?;
        let files = weights_in(&folder, Part::UNet, variant)?;
        return Ok(Other { config: read, files, origin: Origin::Config(config) });
    }
    let shapes = Shapes::read(path)?;
    if let Some(what) = adapter(&shapes) {
        return Err(unlike(path, &what, EXPECTED));
    }
    let (config, naming) = if shapes.any(root(Part::UNet)) {
        original(&shapes, &shapes, root(Part::UNet), own)?
    } else if shapes.any("input_blocks.") {
        original(&shapes, &shapes.below(root(Part::UNet)), "", own)?
    } else if shapes.any("down_blocks.") && shapes.get(FIRST).is_some() {
        let config = with_inputs(own.config, shapes.axis(FIRST, 1)?);
        if let Some(name) = difference(path, &Naming::Stored, own)? {
            let reason =
                "differs from the checkpoint's own U-Net: expected its shapes, or a folder with config.json";
            return Err(shapes.error(&name, reason));
        }
        (config, Naming::Stored)
    } else {
        return Err(unlike(path, &kind::without(&shapes, "a U-Net"), EXPECTED));
    };
    let origin = Origin::Shapes(path.to_path_buf(), config.to_json());
    Ok(Other { config, files: vec![WeightFile { path: path.to_path_buf(), naming }], origin })
}

/// A U-Net with the original names below `root` in `file`. `shapes` shows them below `model.diffusion_model.`.
fn original(
    file: &Shapes,
    shapes: &Shapes,
    below: &'static str,
    own: &Own<'_>,
) -> Result<(UNetConfig, Naming)> {
    let name = |name: &str| format!("{}{name}", root(Part::UNet));
    if !shapes.any(&name("label_emb.")) {
        let what = "a U-Net without inputs for sizes and pooled text, as Stable Diffusion 1 and 2 have it";
        return Err(unlike(file.file(), what, EXPECTED));
    }
    let as_own = renames(own.config, below);
    // This tensor marks files with scaled f8 weights.
    let is_marker = |name: &str| name.ends_with("scaled_fp8");
    let covered = !file.names().any(|name| as_own.lacks(name) && !is_marker(name));
    let as_own = Naming::Original(Arc::new(as_own));
    if covered && own.files.is_some() && difference(file.file(), &as_own, own)?.is_none() {
        let inputs = shapes.axis(&name("input_blocks.0.0.weight"), 1)?;
        return Ok((with_inputs(own.config, inputs), as_own));
    }
    let config = derive(shapes, own.pooled, own.config.sample_size)?;
    let rules = renames(&config, below);
    if let Some(name) = file.names().find(|name| rules.lacks(name) && !is_marker(name)) {
        return Err(file.error(name, "expected only tensors of SD-XL's U-Net beside it, got this one"));
    }
    Ok((config, Naming::Original(Arc::new(rules))))
}

fn with_inputs(config: &UNetConfig, in_channels: usize) -> UNetConfig {
    UNetConfig { in_channels, ..config.clone() }
}

/// The first tensor of `file` that the checkpoint's own U-Net has not, or has with another shape. Also the first one that
/// `file` lacks. `None` if there is none, or if the own weights are missing.
fn difference(file: &Path, naming: &Naming, own: &Own<'_>) -> Result<Option<String>> {
    let Some(own) = own.files else { return Ok(None) };
    let theirs = shown(&[WeightFile { path: file.to_path_buf(), naming: naming.clone() }])?;
    let own = shown(own)?;
    let differs = |name: &&String| theirs.get(*name) != own.get(*name);
    Ok(theirs.keys().chain(own.keys()).find(differs).cloned())
}

/// The tensors of these files, with their shapes. The first convolution's inputs are left out.
fn shown(files: &[WeightFile]) -> Result<BTreeMap<String, Vec<usize>>> {
    let source = SafetensorsSource::open(files, DType::F32, ())?;
    let mut shapes = BTreeMap::new();
    for tensor in source.stored() {
        let mut shape = tensor.shape.to_vec();
        if tensor.name == FIRST && shape.len() > 1 {
            shape.remove(1);
        }
        shapes.insert(tensor.name.to_string(), shape);
    }
    Ok(shapes)
}
