//! FLUX on Candle's tensors, with diffusers' weights, and the same with fewer image tokens.
//!
//! - [`config`]: diffusers' `config.json`.
//! - [`rotary`]: rotary positions.
//! - [`layers`]: modulation, and the two kinds of layers.
//! - [`model`]: what comes before and after the layers.
//! - [`plain`]: the forward pass before.
//! - [`reduced`]: the forward pass after; a test counts the lines that were added.

pub mod config;
pub mod layers;
pub mod model;
pub mod plain;
pub mod reduced;
pub mod rotary;
