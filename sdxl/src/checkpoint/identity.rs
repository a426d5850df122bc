//! A hash that identifies a checkpoint. It takes only a moment, whatever the checkpoint's size.

use std::path::Path;

use atedm_core::{DType, Result};

use super::files::read_if_there;
use super::sampled::Sampled;
use super::{Checkpoint, OpenOptions, Part, SCHEDULER, Settings, TOKENIZER_FILES, TOKENIZERS};
use crate::architecture::pretty;
use crate::output::NamedFile;
use crate::weights::SafetensorsSource;

/// The identity of the checkpoint in `root`, opened with default options (see [`Checkpoint::identity`]).
///
/// # Errors
/// The errors of [`Checkpoint::open`] and [`Checkpoint::identity`].
pub fn identity(root: impl AsRef<Path>) -> Result<String> {
    Checkpoint::open(root, OpenOptions::default())?.identity()
}

impl Checkpoint {
    /// Identifies a checkpoint: SHA-256 over the data that a run reads, in 64 hexadecimal digits.
    ///
    /// The hash covers:
    /// - the bytes of `model_index.json`, of the configurations of parts and scheduler, and of the tokenizers;
    /// - the sizes of the weight files;
    /// - every tensor's name, dtype, shape and samples of its bytes;
    /// - the same of a ControlNet, with the bytes of its configuration;
    /// - the same of every LoRA, and its scales;
    /// - the words of embeddings, and all bytes of their files.
    ///
    /// A tensor of up to 16 KiB is hashed completely, a larger one at its start, middle and end. So SD-XL's 7 GB take a
    /// moment. A fine-tuned model has another identity. A model with a few values changed between the samples has the
    /// same identity. The names of the folder and the weight files do not matter, nor does the folder's place.
    ///
    /// # Errors
    /// [`atedm_core::Error::Io`] naming a file that cannot be read. [`atedm_core::Error::Weights`] naming a file that is not a complete
    /// safetensors file.
    pub fn identity(&self) -> Result<String> {
        let mut sum = Sampled::default();
        sum.field(b"atedm checkpoint 1");
        for (name, bytes) in self.small_files()? {
            sum.field(name.as_bytes());
            sum.field(&bytes);
        }
        for part in Part::ALL {
            sum.field(part.folder().as_bytes());
            sum.source(&SafetensorsSource::open(self.files(part), DType::F32, ())?);
        }
        if let Some(control) = &self.control {
            sum.field(b"controlnet");
            sum.field(&control.origin.document()?.unwrap_or_default());
            sum.source(&SafetensorsSource::open(&control.weights, DType::F32, ())?);
        }
        for lora in &self.loras {
            sum.field(b"lora");
            lora.add_to(&mut sum);
        }
        for embedding in self.embeddings() {
            sum.field(b"embedding");
            sum.field(embedding.word().as_bytes());
            sum.field(embedding.hash().as_bytes());
        }
        Ok(sum.digits())
    }

    /// Every file except the weights that a run may read: its name in a folder, and its bytes. The tokenizers that this crate
    /// holds are not among them.
    pub(super) fn small_files(&self) -> Result<Vec<NamedFile>> {
        let mut names = vec![("model_index.json".to_string(), None), (SCHEDULER.to_string(), None)];
        names
            .extend(Part::ALL.map(|part| (format!("{}/config.json", part.folder()), self.replaced.of(part))));
        for folder in TOKENIZERS {
            names.extend(TOKENIZER_FILES.map(|name| (format!("{folder}/{name}"), None)));
        }
        let mut files = Vec::new();
        for (name, origin) in names {
            let bytes = match (origin, &self.settings) {
                (Some(origin), _) => origin.document()?,
                (None, Settings::Folder(folder)) => read_if_there(&folder.join(&name))?,
                (None, Settings::Derived(documents)) => {
                    let found = documents.iter().find(|(document, _)| *document == name);
                    found.map(|(_, document)| pretty(document))
                }
            };
            files.extend(bytes.map(|bytes| (name, bytes)));
        }
        Ok(files)
    }
}
