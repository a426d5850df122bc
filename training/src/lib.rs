//! Trains small SD-XL models from random weights, and composes the data that they learn from.
//!
//! - [`scenes`]: scenes of coloured shapes with captions, exact masks and labels. A seeded program composes them.
//! - `emoji` (feature `emoji`): larger scenes that are composed of drawings.
//! - `trainer` (feature `tch`): the training itself, on libtorch's gradients.
//!
//! The scenes need no tensor library.

#[cfg(feature = "emoji")]
pub mod emoji;
pub mod scenes;
#[cfg(feature = "tch")]
pub mod trainer;
