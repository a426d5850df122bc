//! Weights from a [`candle_nn::VarBuilder`].

use std::path::PathBuf;

use atedm_core::{Error, Result, WeightSource};
use candle_nn::VarBuilder;

use crate::CandleTensor;

/// A [`WeightSource`] over a [`VarBuilder`]. Tensors have the builder's dtype and device.
///
/// The prefix of the builder stays: `VarBuilderSource::new(vb.pp("unet"))` serves names below `unet`.
/// A missing tensor is an error here, even if the builder (over a `VarMap`) would create it.
pub struct VarBuilderSource {
    builder: VarBuilder<'static>,
    origin: PathBuf,
}

impl VarBuilderSource {
    /// Weights of this builder. Error messages call it `VarBuilder`.
    pub fn new(builder: VarBuilder<'static>) -> Self {
        Self { builder, origin: PathBuf::from("VarBuilder") }
    }

    /// The same, with the file or description for error messages.
    pub fn named(self, origin: impl Into<PathBuf>) -> Self {
        Self { origin: origin.into(), ..self }
    }
}

impl WeightSource<CandleTensor> for VarBuilderSource {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<CandleTensor> {
        if !self.contains(name) {
            return Err(Error::weights(&self.origin, name, format!("missing, expected shape {shape:?}")));
        }
        let tensor = self.builder.get(shape, name).map_err(|error| {
            let reason = match crate::error::bare(error) {
                candle_core::Error::UnexpectedShape { expected, got, .. } => {
                    format!("expected shape {:?}, got {:?}", expected.dims(), got.dims())
                }
                other => other.to_string(),
            };
            Error::weights(&self.origin, name, reason)
        })?;
        Ok(tensor.into())
    }

    fn contains(&self, name: &str) -> bool {
        self.builder.contains_tensor(name)
    }

    fn origin(&self) -> PathBuf {
        self.origin.clone()
    }
}
