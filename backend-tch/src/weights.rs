//! Weights from a [`tch::nn::VarStore`].

use std::collections::HashMap;
use std::path::PathBuf;

use atedm_core::{Error, Result, WeightSource};
use tch::nn::VarStore;

use crate::TchTensor;

/// A [`WeightSource`] over a [`VarStore`]. It shares the store's tensors without a copy, with their dtype and device.
///
/// Names are those of the store (`unet.conv_in.weight`). They equal the checkpoint's if the store was filled under them.
pub struct VarStoreSource {
    variables: HashMap<String, tch::Tensor>,
    origin: PathBuf,
}

impl VarStoreSource {
    /// Weights of this store. Error messages call it `VarStore`.
    pub fn new(store: &VarStore) -> Self {
        Self { variables: store.variables(), origin: PathBuf::from("VarStore") }
    }

    /// The same source, with a file or description for error messages.
    #[must_use]
    pub fn named(self, origin: impl Into<PathBuf>) -> Self {
        Self { origin: origin.into(), ..self }
    }
}

impl WeightSource<TchTensor> for VarStoreSource {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TchTensor> {
        let Some(variable) = self.variables.get(name) else {
            return Err(Error::weights(&self.origin, name, format!("missing, expected shape {shape:?}")));
        };
        let tensor = TchTensor::from(variable);
        let got = atedm_core::Tensor::shape(&tensor);
        if got != shape {
            let reason = format!("expected shape {shape:?}, got {got:?}");
            return Err(Error::weights(&self.origin, name, reason));
        }
        if tensor.float("weights").is_err() {
            let reason = "expected dtype f16, bf16, f32 or f64".to_string();
            return Err(Error::weights(&self.origin, name, reason));
        }
        Ok(tensor)
    }

    fn contains(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.variables.get(name).map(|variable| atedm_core::Tensor::shape(&TchTensor::from(variable)))
    }

    fn origin(&self) -> PathBuf {
        self.origin.clone()
    }
}

#[cfg(test)]
mod tests {
    use atedm_core::{Tensor, Weights};
    use tch::nn::Init;

    use super::*;

    #[test]
    fn variables_go_in_and_are_shared() {
        let mut store = VarStore::new(tch::Device::Cpu);
        let mut variable = (store.root() / "block" / 0).var("weight", &[2, 3], Init::Const(1.5));
        let source = VarStoreSource::new(&store).named("my model");
        assert_eq!(source.shape_of("block.0.weight"), Some(vec![2, 3]));
        let weights = Weights::new(source).scope("block").scope(0);
        let weight: TchTensor = weights.tensor("weight", &[2, 3]).unwrap();
        assert_eq!(weight.to_f32().unwrap(), [1.5; 6]);
        tch::no_grad(|| variable.f_fill_(2.0).map(drop)).unwrap();
        assert_eq!(weight.to_f32().unwrap(), [2.0; 6], "shared with the store");
        let message = weights.tensor("weight", &[3, 2]).unwrap_err().to_string();
        assert_eq!(message, "my model: block.0.weight: expected shape [3, 2], got [2, 3]");
        let message = weights.tensor("bias", &[3]).unwrap_err().to_string();
        assert_eq!(message, "my model: block.0.bias: missing, expected shape [3]");
        // gradients reach the user's variable through our operations, except inside `inference`
        let loss = weight.mul(&weight).unwrap().sum(1).unwrap().sum(0).unwrap();
        assert!(tch::Tensor::from(&loss).requires_grad());
        tch::Tensor::from(loss).f_backward().unwrap();
        assert_eq!(TchTensor::from(variable.grad()).to_f32().unwrap(), [4.0; 6]);
        let silent = <crate::Torch as atedm_core::Backend>::inference(|| weight.mul(&weight).unwrap());
        assert!(!tch::Tensor::from(silent).requires_grad());
        store.freeze();
    }
}
