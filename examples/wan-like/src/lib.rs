//! A video transformer as Wan is built, and the same one with token reduction.
//!
//! It is diffusers' `WanTransformer3DModel` for text to video: a grid of frames × height × width, 3-D rotary positions,
//! self-attention with RMS norm on queries and keys, cross-attention to text, norms and gates modulated by the time step.
//! It is written on the traits of [`atedm_core`] alone, so it runs on every backend.
//!
//! - [`config`]: its sizes, as diffusers writes them.
//! - [`layers`]: linear layers and norms. [`rope`]: the rotary positions. [`attention`], [`block`]: one layer of the stack.
//! - [`ends`]: what comes before and after the stack. [`model`]: everything, loaded. None of these knows of token reduction.
//! - [`plain`]: the forward pass before.
//! - [`reduced`]: the forward pass after; a test counts the lines that were added.

pub mod attention;
pub mod block;
pub mod config;
pub mod ends;
pub mod layers;
pub mod model;
pub mod plain;
pub mod reduced;
pub mod rope;
