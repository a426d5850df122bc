//! FLUX on Candle's tensors, with diffusers' weights.
//!
//! - [`config`]: diffusers' `config.json`.
//! - [`rotary`]: rotary positions.
//! - [`layers`]: modulation, and the two kinds of layers.
//! - [`model`]: what comes before and after the layers.
//! - [`plain`]: the forward pass.

pub mod config;
pub mod layers;
pub mod model;
pub mod plain;
pub mod rotary;
