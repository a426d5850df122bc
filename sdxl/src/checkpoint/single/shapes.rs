//! The names and shapes of a file's tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_core::{DType, Error, Result};

use crate::weights::SafetensorsSource;

/// Shapes by name.
#[derive(Debug)]
pub(crate) struct Shapes {
    file: PathBuf,
    shapes: BTreeMap<String, Vec<usize>>,
    /// The beginning that every name has here and not in the file.
    added: &'static str,
}

impl Shapes {
    /// Reads the header of `file`, which must be a whole safetensors file.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let source = SafetensorsSource::open(&[file.to_path_buf().into()], DType::F32, ())?;
        Ok(Self::of(file, &source))
    }

    /// Those of an opened `file`.
    pub(crate) fn of<D>(file: &Path, source: &SafetensorsSource<D>) -> Self {
        let named = source.stored().into_iter();
        let shapes = named.map(|tensor| (tensor.name.to_string(), tensor.shape.to_vec())).collect();
        Self { file: file.to_path_buf(), shapes, added: "" }
    }

    /// The same with `root` in front of every name.
    pub(crate) fn below(&self, root: &'static str) -> Self {
        let named = self.shapes.iter().map(|(name, shape)| (format!("{root}{name}"), shape.clone()));
        Self { file: self.file.clone(), shapes: named.collect(), added: root }
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.shapes.keys().map(String::as_str)
    }

    /// Whether a name begins with `prefix`.
    pub(crate) fn any(&self, prefix: &str) -> bool {
        self.shapes.range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The shape of `name`, if there is such a tensor.
    pub(crate) fn get(&self, name: &str) -> Option<&[usize]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// The length of an axis of `name`, if there is such a tensor with such an axis.
    pub(crate) fn axis_of(&self, name: &str, axis: usize) -> Option<usize> {
        self.get(name)?.get(axis).copied()
    }

    /// The length of an axis of `name`.
    pub(crate) fn axis(&self, name: &str, axis: usize) -> Result<usize> {
        let Some(shape) = self.get(name) else { return Err(self.error(name, "is missing")) };
        let length = shape.get(axis).copied();
        length.ok_or_else(|| self.error(name, format!("expected an axis {axis}, got shape {shape:?}")))
    }

    /// Counts the tensors `name(0)`, `name(1)`, … up to the first that is missing.
    pub(crate) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|index| self.shapes.contains_key(&name(*index))).count()
    }

    /// An error about the tensor `name`, or about the file if `name` is empty.
    pub(crate) fn error(&self, name: &str, reason: impl Into<String>) -> Error {
        Error::weights(&self.file, name.strip_prefix(self.added).unwrap_or(name), reason)
    }
}
