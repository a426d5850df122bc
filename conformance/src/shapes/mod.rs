//! A backend without data: tensors are shapes, and operations only count their cost.
//!
//! The generic bodies of a real model run on it unchanged, even SD-XL at 1024 px. This takes seconds and no memory.
//! Every multiply-accumulate is counted in the [`Ledger`] of the device. The method's scoring (votes, similarity) is
//! counted apart from the model's own work, because published FLOPs leave it out.

mod attention;
mod indices;
mod ledger;
mod nn;
mod tensor;

pub use indices::ShapeIndices;
pub use ledger::{Account, Ledger, ShapeDevice, Tally};
pub use tensor::ShapeTensor;

use std::path::PathBuf;

use atedm_core::{Backend, DType, Result, WeightSource};

/// The backend without data.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shapes;

impl Backend for Shapes {
    const NAME: &'static str = "shapes";
    type Tensor = ShapeTensor;
}

/// Weights of any name and shape. Their elements count as parameters.
#[derive(Debug, Clone)]
pub struct ShapeWeights(pub ShapeDevice);

impl WeightSource<ShapeTensor> for ShapeWeights {
    fn tensor(&self, _name: &str, shape: &[usize]) -> Result<ShapeTensor> {
        self.0.with(|ledger| ledger.parameters += shape.iter().product::<usize>() as u64);
        Ok(ShapeTensor::new(shape, DType::F32, &self.0))
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn origin(&self) -> PathBuf {
        PathBuf::from("shapes")
    }
}
