//! The tensors that are trained. They are one flat buffer, with a leaf of the gradient graph for each tensor.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use atedm_core::{Error, Result, WeightSource, Weights};
use atedm_tch::{Device, OrBackend, TchTensor, TorchResult};
use tch::{Kind, Tensor as Raw};

/// One tensor of the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name in the checkpoint, below the part's folder (`unet.conv_in.weight`).
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its place in the buffer.
    pub range: Range<usize>,
}

/// Master weights in f32: `[total]`, with a name and a shape for each piece.
///
/// Leaves share the buffer's memory. So the optimizer works on the whole buffer at once, and the models see the result.
#[derive(Debug)]
pub struct Parameters {
    slots: Vec<Slot>,
    values: Raw,
    leaves: Vec<Raw>,
}

impl Parameters {
    /// A buffer for `list`, filled by `initial` (name and shape to values, row-major).
    pub fn new(
        list: impl IntoIterator<Item = (String, Vec<usize>)>,
        initial: impl Fn(&str, &[usize]) -> Vec<f32>,
        device: Device,
    ) -> Result<Self> {
        let (mut slots, mut values) = (Vec::new(), Vec::new());
        for (name, shape) in list {
            let start = values.len();
            values.extend(initial(&name, &shape));
            slots.push(Slot { name, shape, range: start..values.len() });
        }
        let values = Raw::f_from_slice(&values).and_then(|values| values.f_to_device(device));
        let values = values.or_backend("parameters")?;
        let leaf = |slot: &Slot| -> TorchResult<Raw> {
            let shape: Vec<i64> = slot.shape.iter().map(|&len| len as i64).collect();
            let piece = values.f_narrow(0, slot.range.start as i64, slot.range.len() as i64)?;
            Ok(piece.f_view(shape.as_slice())?.f_detach()?.set_requires_grad(true))
        };
        let leaves = slots.iter().map(leaf).collect::<TorchResult<_>>().or_backend("parameters")?;
        Ok(Self { slots, values, leaves })
    }

    /// The pieces, in the buffer's order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The buffer `[total]`. Change it only where no gradient is recorded.
    pub fn values(&self) -> &Raw {
        &self.values
    }

    /// The handles from which a worker loads models. They may move to another thread.
    pub fn handles(&self) -> Handles {
        let names = self.slots.iter().map(|slot| slot.name.clone()).collect();
        Handles { names, leaves: self.leaves.iter().map(Raw::shallow_clone).collect() }
    }
}

/// Handles on the leaves of [`Parameters`].
#[derive(Debug)]
pub struct Handles {
    names: Vec<String>,
    leaves: Vec<Raw>,
}

impl Handles {
    /// The leaves as weights in `kind`. Casts are part of the gradient graph, so gradients reach the f32 masters.
    pub fn weights(&self, kind: Kind) -> Result<Weights<TchTensor>> {
        let mut tensors = HashMap::with_capacity(self.leaves.len());
        for (name, leaf) in self.names.iter().zip(&self.leaves) {
            tensors.insert(name.clone(), leaf.f_to_kind(kind).or_backend("parameters")?);
        }
        Ok(Weights::new(Leaves(tensors)))
    }

    /// The gradient of the scalar `loss`, in the buffer's flat layout. It is zero for leaves that the loss does not
    /// depend on.
    pub fn gradient(&self, loss: &TchTensor) -> Result<Raw> {
        let work = || -> TorchResult<Raw> {
            let gradients = Raw::f_run_backward(&[loss.as_ref()], &self.leaves, false, false)?;
            let flat = gradients.iter().zip(&self.leaves).map(|(gradient, leaf)| {
                if gradient.defined() {
                    gradient.f_reshape([-1])
                } else {
                    leaf.f_detach()?.f_zeros_like()?.f_reshape([-1])
                }
            });
            Raw::f_cat(&flat.collect::<TorchResult<Vec<_>>>()?, 0)
        };
        work().or_backend("gradient")
    }
}

/// A [`WeightSource`] over the leaves.
struct Leaves(HashMap<String, Raw>);

impl WeightSource<TchTensor> for Leaves {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<TchTensor> {
        let origin = WeightSource::<TchTensor>::origin(self);
        let tensor = self.0.get(name).map(TchTensor::from);
        let tensor =
            tensor.ok_or_else(|| Error::weights(&origin, name, "is not among the trained tensors"))?;
        let got = atedm_core::Tensor::shape(&tensor);
        if got != shape {
            return Err(Error::weights(&origin, name, format!("expected shape {shape:?}, got {got:?}")));
        }
        Ok(tensor)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn origin(&self) -> PathBuf {
        PathBuf::from("trained parameters")
    }
}
