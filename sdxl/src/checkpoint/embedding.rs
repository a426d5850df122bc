//! Textual inversions: new words, with vectors for both text encoders' tables of tokens.
//!
//! ```text
//! clip_l [vectors, channels of text_encoder]     clip_g [vectors, channels of text_encoder_2]
//! ```

use std::convert::Infallible;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use atedm_core::{DType, Error, Result, Tensor, WeightSource};
use sha2::{Digest, Sha256};

use super::part::Part;
use super::single::{Shapes, kind};
use crate::config::TextEncoderConfig;
use crate::weights::{FLOATS, SafetensorsSource, are_finite};

/// The tensors of a file, in the order of the text encoders.
const TENSORS: [&str; 2] = ["clip_l", "clip_g"];

/// The file of a textual inversion, and the word that stands for it in prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingFile {
    /// A safetensors file with `clip_l` and `clip_g`.
    pub path: PathBuf,
    /// The word; the file's name without its ending if `None`.
    pub word: Option<String>,
}

impl EmbeddingFile {
    /// Reads `FILE` or `FILE:WORD`. A colon before a separator of folders belongs to the file.
    pub fn read(text: &str) -> Self {
        let named = text
            .rsplit_once(':')
            .filter(|(path, word)| !path.is_empty() && !word.is_empty() && !word.contains(['/', '\\']));
        match named {
            Some((path, word)) => Self { path: path.into(), word: Some(word.to_string()) },
            None => Self { path: text.into(), word: None },
        }
    }

    /// The word that stands for it.
    pub fn word(&self) -> String {
        let stem = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.word.clone().unwrap_or_else(stem)
    }
}

impl FromStr for EmbeddingFile {
    type Err = Infallible;

    /// [`EmbeddingFile::read`].
    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(Self::read(text))
    }
}

/// A textual inversion that fits a checkpoint. Its vectors are read when they are asked for.
#[derive(Debug, Clone)]
pub struct Embedding {
    word: String,
    path: PathBuf,
    hash: String,
    /// The shapes of [`TENSORS`] in the file.
    shapes: [Vec<usize>; 2],
    count: usize,
}

impl Embedding {
    /// Checks a file against the text encoders.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Weights`] that says what the file is and what was expected. [`Error::Config`] for a word that
    /// cannot be one.
    pub(super) fn open(file: &EmbeddingFile, encoders: [&TextEncoderConfig; 2]) -> Result<Self> {
        let path = &file.path;
        let word = file.word();
        if word.trim() != word || word.is_empty() || word.contains(char::is_control) {
            let reason = format!("expected a word to stand for it, got {word:?}");
            return Err(Error::config(format!("embedding {}", path.display()), reason));
        }
        let source = SafetensorsSource::open(&[path.clone().into()], DType::F32, ())?;
        let wrong = |tensor: &str, reason: String| Error::weights(path, tensor, reason);
        let tensors = source.stored();
        let expected = encoders.map(|encoder| encoder.channels);
        let [first, second] = expected;
        let [Some(one), Some(two)] = TENSORS.map(|name| tensors.iter().find(|tensor| tensor.name == name))
        else {
            let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
            let shape = tensors.first().map(|tensor| tensor.shape);
            let kind = kind(&Shapes::of(path, &source));
            let is = instead(&names, shape.unwrap_or_default(), kind);
            let reason = format!(
                "is {is}: expected a textual inversion for SD-XL, clip_l [n, {first}] and clip_g [n, {second}]"
            );
            return Err(wrong("", reason));
        };
        let mut counts = [0; 2];
        for ((tensor, channels), count) in [one, two].into_iter().zip(expected).zip(&mut counts) {
            *count = match *tensor.shape {
                [own] if own == channels => 1,
                [count, own] if own == channels && count > 0 => count,
                _ => {
                    let reason = format!("expected shape [n, {channels}], got {:?}", tensor.shape);
                    return Err(wrong(tensor.name, reason));
                }
            };
            match are_finite(tensor.bytes, tensor.dtype) {
                Some(true) => {}
                Some(false) => {
                    return Err(wrong(tensor.name, "holds values that are not finite".to_string()));
                }
                None => {
                    let reason = format!("expected dtype {FLOATS}, got {:?}", tensor.dtype);
                    return Err(wrong(tensor.name, reason));
                }
            }
        }
        let [count, other] = counts;
        if count != other {
            let reason = format!("expected {count} vectors, as clip_l has, got {other}");
            return Err(wrong("clip_g", reason));
        }
        Ok(Self {
            word,
            path: path.clone(),
            hash: hash_of(path)?,
            shapes: [one.shape.to_vec(), two.shape.to_vec()],
            count,
        })
    }

    /// The word that stands for it in prompts.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens that the word takes in a prompt.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The SHA-256 of its file, in 64 hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Its vectors for a text encoder: `[count, channels]`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] if the file is no longer what it was; [`Error::Config`] if `part` is no text encoder.
    pub fn vectors<T: Tensor>(&self, part: Part, dtype: DType, device: &T::Device) -> Result<T> {
        let place = match part {
            Part::TextEncoder => 0,
            Part::TextEncoder2 => 1,
            Part::UNet | Part::Vae => {
                return Err(Error::config(
                    "embedding",
                    format!("expected a text encoder, got {}", part.folder()),
                ));
            }
        };
        let source =
            SafetensorsSource::<T::Device>::open(&[self.path.clone().into()], dtype, device.clone())?;
        let shape = &self.shapes[place];
        let tensor: T = source.tensor(TENSORS[place], shape)?;
        tensor.reshape(&[self.count, shape.last().copied().unwrap_or(0)])
    }
}

/// What a file is that has not both tensors.
fn instead(names: &[&str], shape: &[usize], kind: Option<String>) -> String {
    let width = shape.last().copied().unwrap_or(0);
    match names {
        [] => "an empty file".to_string(),
        ["clip_g"] | ["clip_l"] => format!("a textual inversion for one text encoder ({} alone)", names[0]),
        [name] => match width {
            768 => format!("a textual inversion for Stable Diffusion 1 ({name:?} of {width} channels)"),
            1024 => format!("a textual inversion for Stable Diffusion 2 ({name:?} of {width} channels)"),
            _ => format!("a file with one tensor {name:?} of shape {shape:?}"),
        },
        names => {
            kind.unwrap_or_else(|| format!("a file with {} tensors such as {:?}", names.len(), names[0]))
        }
    }
}

fn hash_of(path: &Path) -> Result<String> {
    let failed = |source| Error::io(path, source);
    let mut sum = Sha256::new();
    std::io::copy(&mut File::open(path).map_err(failed)?, &mut sum).map_err(failed)?;
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_may_follow_the_file() {
        let read = |text: &str| {
            let file: EmbeddingFile = text.parse().unwrap();
            (file.path.display().to_string(), file.word())
        };
        assert_eq!(read("a/fox.safetensors"), ("a/fox.safetensors".into(), "fox".into()));
        assert_eq!(read("a/fox.safetensors:<my fox>"), ("a/fox.safetensors".into(), "<my fox>".into()));
        assert_eq!(read("fox.v2.safetensors"), ("fox.v2.safetensors".into(), "fox.v2".into()));
        assert_eq!(read(r"C:\fox.safetensors").0, r"C:\fox.safetensors");
        assert_eq!(read("C:/fox.safetensors:f").0, "C:/fox.safetensors");
        assert_eq!(read("fox.safetensors:").0, "fox.safetensors:");
    }
}
