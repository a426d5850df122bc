//! A part that replaces a checkpoint's own, and the origin of its configuration.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};
use serde_json::Value;

use crate::architecture::pretty;
use crate::checkpoint::files::{self, read_if_there};
use crate::checkpoint::part::Part;
use crate::weights::WeightFile;

/// A part from elsewhere, with its configuration.
pub(crate) struct Other<C> {
    pub(crate) config: C,
    pub(crate) files: Vec<WeightFile>,
    pub(crate) origin: Origin,
}

/// The origin of the configuration of a part from elsewhere.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// This `config.json`.
    Config(PathBuf),
    /// The shapes of this file's tensors, and the `config.json` that they make.
    Shapes(PathBuf, Value),
}

impl Origin {
    /// The path that messages about the configuration name.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Config(path) | Self::Shapes(path, _) => path,
        }
    }

    /// The bytes of the `config.json`.
    pub(crate) fn document(&self) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Config(path) => read_if_there(path),
            Self::Shapes(_, document) => Ok(Some(pretty(document))),
        }
    }
}

/// The parts of a checkpoint that come from elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replaced {
    pub(crate) unet: Option<Origin>,
    pub(crate) vae: Option<Origin>,
}

impl Replaced {
    /// The origin of `part`; `None` for the checkpoint's own.
    pub(crate) fn of(&self, part: Part) -> Option<&Origin> {
        match part {
            Part::UNet => self.unet.as_ref(),
            Part::Vae => self.vae.as_ref(),
            Part::TextEncoder | Part::TextEncoder2 => None,
        }
    }
}

/// The folder of `part` in `path`: its subfolder if `path` is a whole checkpoint, else `path`.
pub(super) fn folder_of(path: &Path, part: Part) -> PathBuf {
    match path.join("model_index.json").is_file() {
        true => path.join(part.folder()),
        false => path.to_path_buf(),
    }
}

/// The weight files of `part` in a folder: those of `variant` if there are any. A part from elsewhere often has only
/// plain files, whatever the checkpoint has.
pub(super) fn weights_in(folder: &Path, part: Part, variant: Option<&str>) -> Result<Vec<WeightFile>> {
    files::find(folder, part, variant).or_else(|_| files::find(folder, part, None))
}

/// The error that a file is something else.
pub(super) fn unlike(path: &Path, what: &str, expected: &str) -> Error {
    Error::weights(path, "", format!("is {what}: expected {expected}"))
}
