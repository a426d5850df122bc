//! FLUX on Candle's tensors with diffusers' weights, unchanged and with fewer image tokens.
//!
//! - [`config`]: diffusers' `config.json`.
//! - [`rotary`]: rotary positions.
//! - [`layers`]: modulation, and the two kinds of layers.
//! - [`model`]: what comes before and after the layers.
//! - [`plain`]: the unchanged forward pass.
//! - [`reduced`]: the forward pass that a method can reduce. A test counts the lines that were added.

pub mod config;
pub mod layers;
pub mod model;
pub mod plain;
pub mod reduced;
pub mod rotary;
