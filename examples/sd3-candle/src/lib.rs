//! Stable Diffusion 3 and 3.5 from the parts of `candle_transformers::models::mmdit`, with the original weights.
//!
//! That module's whole model cannot call a method, but its parts are public. The text runs through its `DiTBlock`,
//! unchanged. The image runs through its projections alone, because its blocks add the residuals themselves. Here the
//! pass must add them. Two parts are replaced:
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
//! - [`plain`]: the unchanged forward pass.
//! - [`reduced`]: the forward pass that a method can reduce. A test counts the lines that were added.

pub mod config;
pub mod layers;
pub mod model;
pub mod plain;
pub mod reduced;
