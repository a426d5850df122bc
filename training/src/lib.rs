//! Small SD-XL models trained from nothing, and the data that they learn from.
//!
//! - [`scenes`]: scenes of coloured shapes, composed by a seeded program, with captions, exact masks and labels.
//! - `emoji` (feature `emoji`): larger scenes, composed of drawings.
//! - `trainer` (feature `tch`): the training itself, on libtorch's gradients.
//!
//! The scenes need no tensor library.

#[cfg(feature = "emoji")]
pub mod emoji;
pub mod scenes;
#[cfg(feature = "tch")]
pub mod trainer;
