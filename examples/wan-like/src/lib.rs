//! A video transformer with Wan's structure, unchanged and with token reduction.
//!
//! It is diffusers' `WanTransformer3DModel` for text to video: a grid of frames × height × width, 3-D rotary positions,
//! self-attention with RMS norm on queries and keys, cross-attention to text, norms and gates modulated by the time step.
//! It is written on the traits of [`atedm_core`] alone, so it runs on every backend.
//!
//! - [`config`]: its sizes, as diffusers writes them.
//! - [`layers`]: linear layers and norms. [`rope`]: the rotary positions. [`attention`], [`block`]: one layer of the stack.
//! - [`ends`]: what comes before and after the stack. [`model`]: the whole model with its weights. Token reduction
//!   changes none of these.
//! - [`plain`]: the unchanged forward pass.
//! - [`reduced`]: the forward pass that a method can reduce. A test counts the lines that were added.

pub mod attention;
pub mod block;
pub mod config;
pub mod ends;
pub mod layers;
pub mod model;
pub mod plain;
pub mod reduced;
pub mod rope;
