//! Stable Diffusion 3 and 3.5 from the parts of `candle_transformers::models::mmdit`, with the original weights.
//!
//! That module's whole model cannot be hooked, but its parts are public. The text's stream is its `DiTBlock`, untouched.
//! The image's stream is made of its projections, because its blocks add their residuals themselves, which is the
//! pass's work. Two parts are replaced:
//!
//! - its `TimestepEmbedder` makes sines and cosines in f16; `stable_diffusion`'s `Timesteps` makes them in f32, and a
//!   `VectorEmbedder` has the same two matrices;
//! - its last layer leaves out the norms on the text's queries and keys, which the checkpoints of 3.5 have.
//!
//! Modules:
//!
//! - [`config`]: diffusers' `config.json`.
//! - [`layers`]: one layer, image and text.
//! - [`model`]: what comes before and after the layers.
//! - [`plain`]: the forward pass before.
//! - [`reduced`]: the forward pass after; a test counts the lines that were added.

pub mod config;
pub mod layers;
pub mod model;
pub mod plain;
pub mod reduced;
