//! Trains a small SD-XL from random weights. It uses the same models that sample, with libtorch's gradients.
//!
//! # Structure
//! - [`Recipe`]: everything that a training depends on, as a TOML file. [`train`] runs it in a folder and continues from
//!   the last state.
//! - Arithmetic: `parameters` (one flat buffer, leaves of the gradient graph), `course` (workers' gradients in order),
//!   [`AdamW`], `autoencoder` and `diffusion` (the losses), `draws` (numbers keyed by image), `init` (initial weights
//!   from another model), `state` and `losses` (files), [`Trained`] (the result).
//!
//! The models are loaded again from the leaves in every step. So their fused projections and casts are part of the
//! gradient graph.

mod autoencoder;
mod course;
mod diffusion;
mod draws;
mod init;
mod losses;
mod optimizer;
mod parameters;
mod recipe;
mod run;
mod state;
#[cfg(test)]
mod tests;
mod trained;

pub use optimizer::{AdamW, Course};
pub use parameters::{Handles, Parameters, Slot};
pub use recipe::{AutoencoderRecipe, Data, DiffusionRecipe, Part, Recipe};
pub use run::{Observer, Options, train};
pub use trained::Trained;
