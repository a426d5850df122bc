//! Checkpoints in one safetensors file with the names of the original code (LDM, sgm). Most SD-XL models are shared like this.
//!
//! Such a file has no configurations and no tokenizers. The shapes of its tensors give the configurations. The tokenizers use
//! CLIP's vocabulary, which comes with this crate.

mod derive;
mod kind;
mod names;
mod shapes;
mod unet;

use std::path::Path;
use std::sync::Arc;

use atedm_core::{Error, Result};

use self::kind::Autoencoder;
pub(super) use self::kind::{kind, what_else};
pub(super) use self::names::unet as unet_names;
pub(super) use self::shapes::Shapes;
use super::configurations::Configurations;
use super::door;
use super::found::{Found, OpenOptions, Settings, other_vae};
use super::part::Part;
use crate::weights::{Naming, WeightFile, is_safetensors};

/// Whether `path` is opened as a single file: it has the extension, or its content is safetensors.
pub(super) fn is_meant(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension == "safetensors");
    !path.is_dir() && (named || is_safetensors(path))
}

/// Finds the parts in a single file.
pub(super) fn find(file: &Path, options: &OpenOptions) -> Result<Found> {
    if let Some(variant) = &options.variant {
        let reason = format!("expected none, as {} is a single file; got {variant:?}", file.display());
        return Err(Error::config("variant", reason));
    }
    let shapes = Shapes::read(file)?;
    let autoencoder = if options.vae.is_some() { Autoencoder::Given } else { Autoencoder::Needed };
    kind::check(&shapes, autoencoder)?;
    let other = options.vae.as_deref().map(|folder| other_vae(folder, None)).transpose()?;
    let (other, other_files) = other.unzip();
    let (settings, configurations) = match &options.config {
        Some(folder) => {
            let configurations = Configurations::of_folder(folder, &door::model_index(folder)?, other)?;
            (Settings::Folder(folder.clone()), configurations)
        }
        None => {
            let documents = derive::documents(&shapes)?;
            let configurations = Configurations::of_documents(file, &documents, other)?;
            (Settings::Derived(documents), configurations)
        }
    };
    let names = |part: Part| names::of_part(part, &configurations).map(Arc::new);
    let unet = names(Part::UNet)?;
    // This tensor marks files with scaled f8 weights. Each such weight has a scale of its own.
    let is_marker = |name: &str| name.ends_with(".scaled_fp8");
    if let Some(name) = shapes.names().find(|name| unet.lacks(name) && !is_marker(name)) {
        return Err(shapes.error(name, "expected only tensors of SD-XL's U-Net beside it, got this one"));
    }
    let files = |renames| vec![WeightFile { path: file.to_path_buf(), naming: Naming::Original(renames) }];
    let vae = match other_files {
        Some(files) => files,
        None => files(names(Part::Vae)?),
    };
    let files = [files(names(Part::TextEncoder)?), files(names(Part::TextEncoder2)?), files(unet), vae];
    Ok(Found { settings, configurations, files })
}
