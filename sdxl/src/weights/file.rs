//! A weight file and the names of its tensors.

use std::path::PathBuf;

use super::naming::Naming;

/// One safetensors file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightFile {
    /// The file's path.
    pub path: PathBuf,
    /// The names of its tensors.
    pub naming: Naming,
}

impl From<PathBuf> for WeightFile {
    fn from(path: PathBuf) -> Self {
        Self { path, naming: Naming::Stored }
    }
}
