//! Sources of weights: safetensors files, seeded random numbers, and a recorder of a model's requests.

mod f8;
mod file;
mod foreign;
mod header;
mod naming;
mod random;
mod recorder;
mod safetensors;
mod values;

pub use self::safetensors::SafetensorsSource;
pub use file::WeightFile;
pub(crate) use foreign::what_it_is;
pub use header::Contents;
pub(crate) use header::is_safetensors;
pub(crate) use naming::Target;
pub use naming::{Naming, Renames};
pub use random::{RandomSource, random_values};
pub use recorder::{Recorder, TensorList};
pub(crate) use values::{FLOATS, are_finite};
