//! A transformer written directly on Candle, and the same one with AT-EDM.
//!
//! - [`layers`]: the model's own layers, with its own attention kernel; untouched.
//! - [`plain`]: the forward pass before.
//! - [`pruned`]: the forward pass after; a test counts the lines that were added.

pub mod layers;
pub mod plain;
pub mod pruned;
