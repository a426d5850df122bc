//! The parts of a checkpoint, before they are checked against each other.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};

use super::configurations::{Configurations, Documents};
use super::embedding::EmbeddingFile;
use super::lora::Lora;
use super::part::Part;
use super::{door, files};
use crate::config::{TinyVaeConfig, VaeConfig};
use crate::weights::{Naming, WeightFile};

/// Options for opening a checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpenOptions {
    /// Read only the files of this variant (`fp16`). Without it, plain files are preferred, then `fp16`, then `bf16`.
    pub variant: Option<String>,
    /// An autoencoder that replaces the checkpoint's own. It is a folder with `config.json` and weights, or with the two
    /// files `taesdxl_encoder.safetensors` and `taesdxl_decoder.safetensors`.
    pub vae: Option<PathBuf>,
    /// For a single file: a diffusers folder with the configurations and tokenizers to use. It needs no weights. Without this
    /// folder, the shapes of the file's tensors give the configurations, and SD-XL's tokenizers are used.
    pub config: Option<PathBuf>,
    /// LoRAs that change the weights, added in this order.
    pub loras: Vec<Lora>,
    /// Textual inversions: words that prompts may use.
    pub embeddings: Vec<EmbeddingFile>,
}

/// The source of configurations and tokenizers.
#[derive(Debug, Clone)]
pub(super) enum Settings {
    /// This folder.
    Folder(PathBuf),
    /// These documents, which were found from a single file. The tokenizers are SD-XL's.
    Derived(Documents),
}

/// The parts of a checkpoint.
pub(super) struct Found {
    pub(super) settings: Settings,
    pub(super) configurations: Configurations,
    /// The weight files, in the order of [`Part`].
    pub(super) files: [Vec<WeightFile>; 4],
}

/// Finds the parts in a diffusers folder.
pub(super) fn in_folder(root: &Path, options: &OpenOptions) -> Result<Found> {
    let index = door::model_index(root)?;
    if options.config.is_some() {
        return Err(Error::config("config", format!("expected none, as {} is a folder", root.display())));
    }
    let variant = options.variant.as_deref();
    let other = options.vae.as_deref().map(|folder| other_vae(folder, variant)).transpose()?;
    let (other, other_files) = other.unzip();
    let configurations = Configurations::of_folder(root, &index, other)?;
    let find = |part: Part| files::find(&root.join(part.folder()), part, variant);
    let vae_files = match other_files {
        Some(files) => files,
        None => find(Part::Vae)?,
    };
    let files = [find(Part::TextEncoder)?, find(Part::TextEncoder2)?, find(Part::UNet)?, vae_files];
    Ok(Found { settings: Settings::Folder(root.to_path_buf()), configurations, files })
}

/// Reads an autoencoder outside the checkpoint.
pub(super) fn other_vae(folder: &Path, variant: Option<&str>) -> Result<(VaeConfig, Vec<WeightFile>)> {
    let config = folder.join("config.json");
    let original = ["encoder", "decoder"].map(|side| WeightFile {
        path: folder.join(format!("taesdxl_{side}.safetensors")),
        naming: Naming::Prefixed(format!("{side}.")),
    });
    if !config.is_file() && original[1].path.is_file() {
        let there = original.into_iter().filter(|file| file.path.is_file());
        return Ok((VaeConfig::Tiny(TinyVaeConfig::default()), there.collect()));
    }
    Ok((VaeConfig::read(&config)?, files::find(folder, Part::Vae, variant)?))
}
