//! The names of the files that replace parts of a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use atedm_sdxl::checkpoint::OpenOptions;
use serde::{Deserialize, Serialize};

/// The names of the files that replace parts of a checkpoint, by the option that gave them: `vae`, `unet`, `controlnet`,
/// `variant`. Pictures and
/// records show them. A hash of the content is in [`Model::inputs`](crate::model::Model::inputs).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parts(BTreeMap<String, String>);

impl Parts {
    /// No file replaces a part.
    pub(crate) const NONE: Self = Self(BTreeMap::new());

    /// The parts that these options replace. A file has its name without the folders above it.
    pub(crate) fn of(options: &OpenOptions) -> Self {
        let OpenOptions { variant, vae, unet, controlnet, .. } = options;
        let named = [
            ("variant", variant.clone()),
            ("vae", vae.as_deref().map(name_of)),
            ("unet", unet.as_deref().map(name_of)),
            ("controlnet", controlnet.as_deref().map(name_of)),
        ];
        Self(named.into_iter().filter_map(|(key, name)| Some((key.to_string(), name?))).collect())
    }

    /// Whether every part is the checkpoint's own.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The options and the names, sorted by option.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, name)| (key.as_str(), name.as_str()))
    }
}

/// The name of a file or folder, without the folders above it.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
