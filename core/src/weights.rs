//! The source of weights: a directory-like view of named tensors.

use std::path::PathBuf;
use std::rc::Rc;

use crate::{Error, Result, Tensor};

/// Gives tensors by their full name in the checkpoint.
///
/// Safetensors readers, Candle's `VarBuilder` and generators of random weights implement it.
pub trait WeightSource<T> {
    /// Returns the tensor `name` of exactly `shape`, in the dtype and on the device of this source.
    ///
    /// # Errors
    /// [`Error::Weights`] names the tensor when it is missing, or has another shape or an unsupported dtype.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<T>;

    /// Whether a tensor of this name exists.
    fn contains(&self, name: &str) -> bool;

    /// The shape of `name`, if it is known without loading it.
    fn shape_of(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    /// A file or a description, for error messages.
    fn origin(&self) -> PathBuf;
}

/// Named tensors below a prefix. `scope` works like `cd` into a directory. Names are those of the diffusers checkpoint.
pub struct Weights<T> {
    source: Rc<dyn WeightSource<T>>,
    prefix: String,
}

impl<T> Clone for Weights<T> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), prefix: self.prefix.clone() }
    }
}

impl<T: Tensor> Weights<T> {
    /// The root of a source.
    pub fn new(source: impl WeightSource<T> + 'static) -> Self {
        Self { source: Rc::new(source), prefix: String::new() }
    }

    /// The view below `name`, which may be a number: `scope(0)`.
    pub fn scope(&self, name: impl std::fmt::Display) -> Self {
        let prefix =
            if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { source: self.source.clone(), prefix }
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// The tensor `name` of exactly `shape`.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<T> {
        self.source.tensor(&self.full_name(name), shape)
    }

    /// The tensor `name`, or `None` if it does not exist.
    pub fn optional(&self, name: &str, shape: &[usize]) -> Result<Option<T>> {
        if self.contains(name) { self.tensor(name, shape).map(Some) } else { Ok(None) }
    }

    /// Whether a tensor of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.source.contains(&self.full_name(name))
    }

    /// The shape of `name`, if it is known without loading it.
    pub fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape_of(&self.full_name(name))
    }

    /// An [`Error::Weights`] about `name` here.
    pub fn error(&self, name: &str, reason: impl Into<String>) -> Error {
        Error::weights(self.source.origin(), self.full_name(name), reason)
    }
}
