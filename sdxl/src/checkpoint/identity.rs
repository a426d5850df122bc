//! A hash that identifies a checkpoint. It takes only a moment, whatever the checkpoint's size.

use std::path::Path;

use atedm_core::{DType, Result};
use sha2::{Digest, Sha256};

use super::files::read_if_there;
use super::{Checkpoint, OpenOptions, Part, SCHEDULER, Settings, TOKENIZER_FILES, TOKENIZERS};
use crate::architecture::pretty;
use crate::output::NamedFile;
use crate::weights::SafetensorsSource;

/// Tensors of at most this many bytes are read completely.
const WHOLE: usize = 16 << 10;
/// Bytes that are read at the start, in the middle and at the end of a larger tensor.
const SAMPLE: usize = 4 << 10;

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
    /// - the words of embeddings, and all bytes of their files.
    ///
    /// A tensor of up to 16 KiB is hashed completely, a larger one at its start, middle and end. So SD-XL's 7 GB take a
    /// moment. A fine-tuned model has another identity. A model with a few values changed between the samples has the
    /// same identity. The names of the folder and the weight files do not matter, nor does the folder's place.
    ///
    /// # Errors
    /// [`Error::Io`] naming a file that cannot be read. [`Error::Weights`] naming a file that is not a complete
    /// safetensors file.
    pub fn identity(&self) -> Result<String> {
        let mut sum = Fields(Sha256::new());
        sum.field(b"atedm checkpoint 1");
        for (name, bytes) in self.small_files()? {
            sum.field(name.as_bytes());
            sum.field(&bytes);
        }
        for part in Part::ALL {
            sum.field(part.folder().as_bytes());
            let source = SafetensorsSource::open(self.files(part), DType::F32, ())?;
            source.expect_samples();
            for size in source.file_sizes() {
                sum.field(&(size as u64).to_le_bytes());
            }
            for tensor in source.stored() {
                sum.field(tensor.name.as_bytes());
                sum.field(format!("{:?} {:?}", tensor.dtype, tensor.shape).as_bytes());
                samples(tensor.bytes).for_each(|sample| sum.field(sample));
            }
        }
        for embedding in self.embeddings() {
            sum.field(b"embedding");
            sum.field(embedding.word().as_bytes());
            sum.field(embedding.hash().as_bytes());
        }
        Ok(sum.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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

/// A hash of fields. Each field follows its length, so different lists of fields are different bytes.
struct Fields(Sha256);

impl Fields {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// The whole tensor, or its start, middle and end.
fn samples(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let length = bytes.len();
    let (size, starts) = match length <= WHOLE {
        true => (length, vec![0]),
        false => (SAMPLE, vec![0, (length - SAMPLE) / 2, length - SAMPLE]),
    };
    starts.into_iter().filter_map(move |at| bytes.get(at..at + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tensors_are_sampled_whole_and_large_ones_in_three_places() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(samples(&bytes[..WHOLE]).collect::<Vec<_>>(), [&bytes[..WHOLE]]);
        let places = [0, 47_952, 95_904].map(|at| &bytes[at..at + SAMPLE]);
        assert_eq!(samples(&bytes).collect::<Vec<_>>(), places);
        assert_eq!(samples(&[]).count(), 1);
    }

    #[test]
    fn fields_do_not_run_together() {
        let sum = |fields: &[&[u8]]| {
            let mut sum = Fields(Sha256::new());
            fields.iter().for_each(|field| sum.field(field));
            sum.0.finalize()
        };
        assert_ne!(sum(&[b"ab", b"c"]), sum(&[b"a", b"bc"]));
        assert_ne!(sum(&[b"a"]), sum(&[b"a", b""]));
    }
}
