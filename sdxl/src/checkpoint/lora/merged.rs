//! Weights with the changes of LoRAs.

use std::collections::HashSet;
use std::path::PathBuf;

use atedm_core::{DType, Result, Tensor, WeightSource};

use super::file::LoraFile;
use super::form::Change;
use crate::checkpoint::Part;
use crate::weights::SafetensorsSource;

/// The weights of a part, to which LoRAs add their changes: `W + Σ change`, computed in f32 (in f64 for weights in f64).
pub(crate) struct Merged<D> {
    base: SafetensorsSource<D>,
    part: Part,
    loras: Vec<LoraFile>,
    /// The names of the weights that change. All others are read as without LoRAs.
    changed: HashSet<String>,
    dtype: DType,
    device: D,
}

impl<D> Merged<D> {
    /// Puts `loras` over the weights of `part`. Tensors are given in `dtype` on `device`.
    pub(crate) fn new(
        base: SafetensorsSource<D>,
        part: Part,
        loras: &[LoraFile],
        dtype: DType,
        device: D,
    ) -> Self {
        let changed = loras.iter().flat_map(|lora| lora.changed(part)).map(String::from).collect();
        Self { base, part, loras: loras.to_vec(), changed, dtype, device }
    }

    /// The sum of all changes of a weight, as a matrix.
    fn change<T: Tensor<Device = D>>(&self, name: &str, dtype: DType) -> Result<Option<T>> {
        let (mut lefts, mut rights, mut sum) = (Vec::new(), Vec::new(), None);
        for lora in &self.loras {
            match lora.change::<T>(self.part, name, dtype, &self.device)? {
                Some(Change::Product(left, right)) => {
                    lefts.push(left);
                    rights.push(right);
                }
                Some(Change::Matrix(matrix)) => sum = Some(added(sum, matrix)?),
                None => {}
            }
        }
        // All products are one product of the factors side by side. So the large result is made once.
        if !lefts.is_empty() {
            let product = joined(&lefts, 1)?.matmul(&joined(&rights, 0)?)?;
            sum = Some(added(sum, product)?);
        }
        Ok(sum)
    }
}

impl<T: Tensor> WeightSource<T> for Merged<T::Device> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<T> {
        if !self.changed.contains(name) {
            return self.base.tensor(name, shape);
        }
        let dtype = self.dtype.accumulator();
        let weight: T = self.base.read(name, shape, dtype, &self.device)?;
        match self.change::<T>(name, dtype)? {
            Some(change) => weight.add(&change.reshape(shape)?)?.cast(self.dtype),
            None => weight.cast(self.dtype),
        }
    }

    fn contains(&self, name: &str) -> bool {
        WeightSource::<T>::contains(&self.base, name)
    }

    fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        WeightSource::<T>::shape_of(&self.base, name)
    }

    fn origin(&self) -> PathBuf {
        WeightSource::<T>::origin(&self.base)
    }
}

fn added<T: Tensor>(sum: Option<T>, more: T) -> Result<T> {
    match sum {
        Some(sum) => sum.add(&more),
        None => Ok(more),
    }
}

fn joined<T: Tensor>(parts: &[T], axis: usize) -> Result<T> {
    match parts {
        [only] => Ok(only.clone()),
        parts => T::concat(&parts.iter().collect::<Vec<_>>(), axis),
    }
}
