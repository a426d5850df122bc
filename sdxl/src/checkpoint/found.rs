//! The parts of a checkpoint, before they are checked against each other.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};

use super::configurations::{Configurations, Documents};
use super::embedding::EmbeddingFile;
use super::lora::Lora;
use super::other::{self, Replaced};
use super::part::Part;
use super::{door, files};
use crate::weights::WeightFile;

/// Options for opening a checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpenOptions {
    /// Read only the files of this variant (`fp16`). Without it, plain files are preferred, then `fp16`, then `bf16`. A part
    /// from elsewhere may have plain files beside a checkpoint with a variant.
    pub variant: Option<String>,
    /// An autoencoder that replaces the checkpoint's own. It is one of these:
    /// - a folder with `config.json` and weights, or with the two files `taesdxl_encoder.safetensors` and
    ///   `taesdxl_decoder.safetensors`, or a whole diffusers folder, whose autoencoder is taken;
    /// - a safetensors file with diffusers' names or the original ones, alone or in a whole checkpoint, or one of TAESDXL's
    ///   two files. A file is taken to be made for SD-XL's latents: their scale is 0.13025, or 1 for a TAESD.
    pub vae: Option<PathBuf>,
    /// A U-Net that replaces the checkpoint's own. It is one of these:
    /// - a folder with `config.json` and weights, or a whole diffusers folder, whose U-Net is taken;
    /// - a safetensors file with diffusers' names or the original ones, alone or in a whole checkpoint. If its tensors have
    ///   the shapes of the checkpoint's own U-Net, that one's configuration counts. Else shapes give it, as in a single file.
    pub unet: Option<PathBuf>,
    /// A ControlNet that runs beside the U-Net: a diffusers folder with `config.json` and weights, or a whole diffusers folder,
    /// whose `controlnet` is taken. A run then needs a picture ([`Request::control`](crate::pipeline::Request::control)).
    pub controlnet: Option<PathBuf>,
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
    pub(super) replaced: Replaced,
}

/// Finds the parts in a diffusers folder.
pub(super) fn in_folder(root: &Path, options: &OpenOptions) -> Result<Found> {
    let index = door::model_index(root)?;
    if options.config.is_some() {
        return Err(Error::config("config", format!("expected none, as {} is a folder", root.display())));
    }
    let variant = options.variant.as_deref();
    let other = options.vae.as_deref().map(|path| other::vae(path, variant)).transpose()?;
    let config_of = other.as_ref().map(|other| other.config.clone());
    let mut configurations = Configurations::of_folder(root, &index, config_of)?;
    let find = |part: Part| files::find(&root.join(part.folder()), part, variant);
    let mut replaced = Replaced::default();
    let vae = match other {
        Some(other) => {
            replaced.vae = Some(other.origin);
            other.files
        }
        None => find(Part::Vae)?,
    };
    let unet = match &options.unet {
        Some(path) => {
            let own = find(Part::UNet).ok();
            other::take_unet(&mut replaced, &mut configurations, path, variant, own.as_deref())?
        }
        None => find(Part::UNet)?,
    };
    let files = [find(Part::TextEncoder)?, find(Part::TextEncoder2)?, unet, vae];
    Ok(Found { settings: Settings::Folder(root.to_path_buf()), configurations, files, replaced })
}
