#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`scenes`]: scenes of coloured shapes from a seeded program, with captions, exact masks and labels.
//! - `emoji` (feature `emoji`): larger scenes, composed of drawings.
//! - `trainer` (feature `tch`): the training itself, with libtorch's gradients.

#[cfg(feature = "emoji")]
pub mod emoji;
pub mod scenes;
#[cfg(feature = "tch")]
pub mod trainer;
