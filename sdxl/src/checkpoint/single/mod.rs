//! Checkpoints in one safetensors file with the names of the original code (LDM, sgm). Most SD-XL models are shared like this.
//!
//! Such a file has no configurations and no tokenizers. The shapes of its tensors give the configurations. The tokenizers use
//! CLIP's vocabulary, which comes with this crate.

pub(super) mod derive;
pub(super) mod kind;
pub(super) mod names;
pub(super) mod shapes;
pub(super) mod unet;

use std::path::Path;
use std::sync::Arc;

use atedm_core::{Error, Result};

use self::kind::Autoencoder;
pub(super) use self::kind::{kind, what_else};
pub(super) use self::names::unet as unet_names;
pub(super) use self::shapes::Shapes;
use super::configurations::Configurations;
use super::door;
use super::found::{Found, OpenOptions, Settings};
use super::other::{self, Replaced};
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
    let other = options.vae.as_deref().map(|path| other::vae(path, None)).transpose()?;
    let config_of = other.as_ref().map(|other| other.config.clone());
    let (settings, mut configurations) = match &options.config {
        Some(folder) => {
            let configurations = Configurations::of_folder(folder, &door::model_index(folder)?, config_of)?;
            (Settings::Folder(folder.clone()), configurations)
        }
        None => {
            let documents = derive::documents(&shapes)?;
            let configurations = Configurations::of_documents(file, &documents, config_of)?;
            (Settings::Derived(documents), configurations)
        }
    };
    let names = |part: Part| names::of_part(part, &configurations).map(Arc::new);
    let renames = names(Part::UNet)?;
    // This tensor marks files with scaled f8 weights. Each such weight has a scale of its own.
    let is_marker = |name: &str| name.ends_with(".scaled_fp8");
    if let Some(name) = shapes.names().find(|name| renames.lacks(name) && !is_marker(name)) {
        return Err(shapes.error(name, "expected only tensors of SD-XL's U-Net beside it, got this one"));
    }
    let files = |renames| vec![WeightFile { path: file.to_path_buf(), naming: Naming::Original(renames) }];
    let mut replaced = Replaced::default();
    let vae = match other {
        Some(other) => {
            replaced.vae = Some(other.origin);
            other.files
        }
        None => files(names(Part::Vae)?),
    };
    let [first, second] = [names(Part::TextEncoder)?, names(Part::TextEncoder2)?].map(files);
    let own = files(renames);
    let unet = match &options.unet {
        Some(path) => other::take_unet(&mut replaced, &mut configurations, path, None, Some(&own))?,
        None => own,
    };
    let files = [first, second, unet, vae];
    Ok(Found { settings, configurations, files, replaced })
}
