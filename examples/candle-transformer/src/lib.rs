//! A transformer written directly on Candle, and the same one with AT-EDM.
//!
//! - [`layers`]: the model's layers, with its own attention kernel. Pruning does not change them.
//! - [`plain`]: the forward pass without pruning.
//! - [`pruned`]: the forward pass with pruning. A test counts the lines that were added.

pub mod layers;
pub mod plain;
pub mod pruned;
