//! Writes a checkpoint as a diffusers folder.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use atedm_core::{DType, Error, Result};

use super::{Checkpoint, Part, Settings, TOKENIZERS};
use crate::architecture::clip;
use crate::output::{NamedFile, create_folder};
use crate::weights::SafetensorsSource;

impl Checkpoint {
    /// Writes the checkpoint as a diffusers folder: configurations, tokenizers, and one weight file for each part. Weights keep
    /// their dtypes. Each tensor is written straight from the mapped file.
    ///
    /// `dir` must be new or empty. After an error it is as before.
    ///
    /// # Errors
    /// [`Error::Io`] naming the folder or file that cannot be read or written. [`Error::Weights`] naming a broken weight file.
    /// [`Error::Config`] if LoRAs change the weights.
    pub fn write_folder(&self, dir: &Path) -> Result<()> {
        if let Some(lora) = self.loras().first() {
            let reason =
                format!("expected none, as the folder gets the weights of the file; got {}", lora.lora());
            return Err(Error::config("loras", reason));
        }
        let mut files = self.small_files()?;
        if matches!(self.settings, Settings::Derived(_)) {
            for (folder, held) in TOKENIZERS.iter().zip(clip::tokenizers()?) {
                files.extend(held.into_iter().map(|(name, bytes)| (format!("{folder}/{name}"), bytes)));
            }
        }
        create_folder(dir, |place| {
            files.iter().try_for_each(|file| write(place, file))?;
            Part::ALL.iter().try_for_each(|part| self.write_weights(*part, place))
        })
    }

    fn write_weights(&self, part: Part, place: &Path) -> Result<()> {
        let folder = place.join(part.folder());
        fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        let file = folder.join(format!("{}.safetensors", part.stem()));
        let source = SafetensorsSource::open(self.files(part), DType::F32, ())?;
        let tensors = source.stored();
        let views = tensors.iter().map(|tensor| (tensor.name, tensor));
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(views, Some(metadata), &file).map_err(|error| match error {
            safetensors::SafeTensorError::IoError(source) => Error::io(&file, source),
            other => Error::weights(&file, "", other.to_string()),
        })
    }
}

fn write(place: &Path, (name, bytes): &NamedFile) -> Result<()> {
    let path = place.join(name);
    let folder = path.parent().unwrap_or(place);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, bytes))
        .map_err(|source| Error::io(path, source))
}
