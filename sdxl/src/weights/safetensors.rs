//! Weights from memory-mapped safetensors files: a single file, or several shards.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use atedm_core::{DType, Error, Result, Tensor, WeightSource};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata};
use safetensors::{SafeTensorError, SafeTensors};

use super::file::WeightFile;
use super::foreign::what_it_is;
use super::header::BEGINNING;
use super::naming::View;
use super::values::{are_finite, floats, number};

/// The endings of a scale's name, for the scale of the module's `weight`. Files of scaled f8 weights have such scalars.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];

/// Tensors of safetensors files. A tensor is converted to the source's dtype and device when it is requested.
///
/// f8 weights are decoded without rounding. If a module has a scale (`….scale_weight`), its `weight` is multiplied by it.
///
/// Files are memory-mapped, and opening them reads only the headers. The headers are checked against the files' sizes
/// before they can cause any allocation.
#[derive(Debug)]
pub struct SafetensorsSource<D> {
    shards: Vec<Shard>,
    tensors: HashMap<String, Entry>,
    /// What the headers' own metadata say.
    notes: HashMap<String, String>,
    dtype: DType,
    device: D,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    data: Mmap,
}

impl Shard {
    /// Releases the pages behind `bytes`, which have been copied. Without this, the pages of a whole checkpoint would
    /// count as this process's memory, in addition to the tensors.
    fn forget(&self, bytes: &Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is private and read-only, and nothing writes to it. Dropping its pages loses nothing:
            // they are read again from the file when touched.
            #[allow(unsafe_code)]
            let advised = unsafe {
                self.data.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len())
            };
            // If the system declines this hint, it costs memory, not correctness.
            if let Err(error) = advised {
                tracing::debug!(%error, "the system keeps the pages of {}", self.path.display());
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    stored: Dtype,
    /// As it is given.
    shape: Vec<usize>,
    bytes: Range<usize>,
    /// Whether the file holds the matrix with its axes swapped.
    turned: bool,
}

/// A tensor in its file's dtype.
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    /// As the file holds them.
    pub(crate) bytes: &'a [u8],
    turned: bool,
}

impl safetensors::View for &Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        in_order(self.bytes, self.shape, self.turned)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// The bytes of a tensor of `shape`, row-major: copied where the file holds the matrix with its axes swapped.
fn in_order<'a>(bytes: &'a [u8], shape: &[usize], turned: bool) -> Cow<'a, [u8]> {
    let (true, &[rows, columns]) = (turned, shape) else { return Cow::Borrowed(bytes) };
    let size = bytes.len() / (rows * columns).max(1);
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| size * (column * rows + row)));
    let value = |at: usize| bytes.get(at..at + size).unwrap_or_default().iter().copied();
    Cow::Owned(places.flat_map(value).collect())
}

impl<D> SafetensorsSource<D> {
    /// Maps `files` and reads their headers. Tensors are given in `dtype` on `device`.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened. [`Error::Weights`] if it is not a complete safetensors file, or if two
    /// files hold a tensor of the same name.
    pub fn open(files: &[WeightFile], dtype: DType, device: D) -> Result<Self> {
        let (tensors, notes) = (HashMap::new(), HashMap::new());
        let mut source = Self { shards: Vec::new(), tensors, notes, dtype, device };
        for file in files {
            source.add(file)?;
        }
        Ok(source)
    }

    fn add(&mut self, file: &WeightFile) -> Result<()> {
        let data = map(&file.path)?;
        let (header, metadata) = read_header(&file.path, &data)?;
        let start = header + 8;
        self.notes.extend(metadata.metadata().clone().unwrap_or_default());
        for (name, info) in metadata.tensors() {
            if SCALES.iter().any(|scale| name.ends_with(scale)) && file.naming.lacks(&name) {
                let reason = "expected the scale of a weight that is known here, got this one";
                return Err(Error::weights(&file.path, name, reason));
            }
            let (from, to) = info.data_offsets;
            for View { name, shape, share: (index, shares), turned } in file.naming.views(&name, &info.shape)
            {
                let length = (to - from) / shares;
                let first = start + from + index * length;
                let bytes = first..first + length;
                let entry = Entry { shard: self.shards.len(), stored: info.dtype, shape, bytes, turned };
                if let Some(other) = self.tensors.insert(name.clone(), entry) {
                    let other = self.shards.get(other.shard).map_or(&file.path, |shard| &shard.path);
                    let reason = format!("is also in {}", other.display());
                    return Err(Error::weights(&file.path, name, reason));
                }
            }
        }
        self.shards.push(Shard { path: file.path.clone(), data });
        Ok(())
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The value of `key` in the metadata of a file's header.
    pub(crate) fn note(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }

    /// The tensor `name` of exactly `shape`, in `dtype` on `device`.
    ///
    /// # Errors
    /// [`Error::Weights`] if the tensor is missing, or has another shape or an unknown dtype.
    pub(crate) fn read<T: Tensor>(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &T::Device,
    ) -> Result<T> {
        let entry =
            self.tensors.get(name).ok_or_else(|| Error::weights(self.first_path(), name, "is missing"))?;
        let shard = &self.shards[entry.shard];
        if entry.shape != shape {
            let reason = format!("expected shape {shape:?}, got {:?}", entry.shape);
            return Err(Error::weights(&shard.path, name, reason));
        }
        let bytes = shard
            .data
            .get(entry.bytes.clone())
            .ok_or_else(|| Error::weights(&shard.path, name, "lies beyond the end of the file"))?;
        let ordered = in_order(bytes, shape, entry.turned);
        let (bytes, stored) =
            floats(&ordered, entry.stored).map_err(|reason| Error::weights(&shard.path, name, reason))?;
        let tensor = T::from_bytes(&bytes, stored, shape, device)?;
        let tensor = match self.scale_of(name)? {
            Some(scale) => tensor.cast(dtype.accumulator())?.affine(scale, 0.0)?.cast(dtype)?,
            None => tensor.cast(dtype)?,
        };
        shard.forget(&entry.bytes);
        Ok(tensor)
    }

    /// The scale of the weight `name`, if it has one.
    fn scale_of(&self, name: &str) -> Result<Option<f64>> {
        let Some(module) = name.strip_suffix(".weight") else { return Ok(None) };
        let name =
            SCALES.iter().map(|scale| format!("{module}{scale}")).find(|name| self.contains_name(name));
        name.map(|name| self.scalar(&name)).transpose()
    }

    /// The only value of the tensor `name`.
    ///
    /// # Errors
    /// [`Error::Weights`] if the tensor has several values, or is missing.
    pub(crate) fn scalar(&self, name: &str) -> Result<f64> {
        let failed = |reason: String| Error::weights(self.first_path(), name, reason);
        let entry = self.tensors.get(name).ok_or_else(|| failed("is missing".into()))?;
        if entry.shape.iter().product::<usize>() != 1 {
            return Err(failed(format!("expected one value, got shape {:?}", entry.shape)));
        }
        let shard = self.shards.get(entry.shard);
        let bytes = shard.and_then(|shard| shard.data.get(entry.bytes.clone())).unwrap_or_default();
        number(bytes, entry.stored)
            .ok_or_else(|| failed(format!("expected a number, got dtype {:?}", entry.stored)))
    }

    /// Checks that no value is NaN or infinite. This reads every tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the first tensor, in the order of names, with such a value.
    pub(crate) fn expect_finite(&self) -> Result<()> {
        let wrong =
            self.stored().into_iter().find(|tensor| are_finite(tensor.bytes, tensor.dtype) == Some(false));
        self.shards.iter().for_each(|shard| shard.forget(&(0..shard.data.len())));
        match wrong {
            Some(tensor) => Err(Error::weights(
                self.first_path(),
                tensor.name,
                "expected finite values, got NaN or infinities",
            )),
            None => Ok(()),
        }
    }

    fn contains_name(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Tells the system that small samples of the files will be read.
    pub(crate) fn expect_samples(&self) {
        #[cfg(unix)]
        for shard in &self.shards {
            // Without this hint, the system reads far ahead of every page.
            if let Err(error) = shard.data.advise(memmap2::Advice::Random) {
                tracing::debug!(%error, "the system reads ahead in {}", shard.path.display());
            }
        }
    }

    /// Every tensor in its file's dtype, sorted by name. Only the pages of `bytes` that the caller reads are loaded.
    pub(crate) fn stored(&self) -> Vec<Stored<'_>> {
        let mut all: Vec<Stored<'_>> = Vec::with_capacity(self.tensors.len());
        for (name, entry) in &self.tensors {
            let bytes = self.shards.get(entry.shard).and_then(|shard| shard.data.get(entry.bytes.clone()));
            let bytes = bytes.unwrap_or_default();
            let Entry { stored: dtype, turned, .. } = *entry;
            all.push(Stored { name, dtype, shape: &entry.shape, bytes, turned });
        }
        all.sort_unstable_by_key(|tensor| tensor.name);
        all
    }

    /// The files' sizes in bytes.
    pub(crate) fn file_sizes(&self) -> Vec<usize> {
        self.shards.iter().map(|shard| shard.data.len()).collect()
    }

    fn first_path(&self) -> PathBuf {
        self.shards.first().map(|shard| shard.path.clone()).unwrap_or_default()
    }
}

impl<T: Tensor> WeightSource<T> for SafetensorsSource<T::Device> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<T> {
        self.read(name, shape, self.dtype, &self.device)
    }

    fn contains(&self, name: &str) -> bool {
        self.contains_name(name)
    }

    fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|entry| entry.shape.clone())
    }

    fn origin(&self) -> PathBuf {
        self.first_path()
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let io = |source| Error::io(path, source);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?;
    if !size.is_file() {
        return Err(Error::weights(path, "", "is not a file"));
    }
    if size.len() < 8 {
        return Err(Error::weights(path, "", "is truncated: no safetensors header"));
    }
    // SAFETY: the mapping is private and read-only. No reference to the bytes outlives `Shard`, which owns the mapping.
    // As with every memory-mapped checkpoint, another process must not shorten the file while it is mapped.
    #[allow(unsafe_code)]
    let data = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(data)
}

fn read_header(path: &Path, data: &[u8]) -> Result<(usize, Metadata)> {
    SafeTensors::read_metadata(data).map_err(|error| {
        let beginning = data.get(..BEGINNING).unwrap_or(data);
        let reason = what_it_is(beginning).unwrap_or_else(|| match error {
            SafeTensorError::MetadataIncompleteBuffer => {
                "is truncated or lies: the header promises another size than the file has".to_string()
            }
            SafeTensorError::InvalidHeaderLength => {
                "is truncated or lies: the header ends beyond the file".to_string()
            }
            other => format!("is no valid safetensors file: {other}"),
        });
        Error::weights(path, "", reason)
    })
}
