//! Sources of weights: safetensors files, seeded random numbers, and a recorder of what a model asks for.

mod random;
mod recorder;
mod safetensors;

pub use self::safetensors::{SafetensorsSource, WeightFile};
pub use random::{RandomSource, random_values};
pub use recorder::{Recorder, TensorList};
